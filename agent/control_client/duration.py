"""Parses durations as operators write them, without regular expressions."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DIGITS = "0123456789"


def seconds(text: str) -> float:
    """Parse 45s, 10m, 1h30m or 250ms; raise `ValueError` with a reason if it is not positive."""
    total, rest = 0.0, text.strip()
    while rest or not total:
        number, rest = _split(rest, _DIGITS + ".")
        unit, rest = _split(rest, "dhms")
        if unit not in _UNITS or not _is_number(number):
            message = f"{text.strip()!r} is not a time span; write it like 45s, 10m, 1h30m or 250ms"
            raise ValueError(message)
        total += float(number) * _UNITS[unit]
        if not rest and not total:
            message = f"{text.strip()!r} is not a positive time span; write it like 45s"
            raise ValueError(message)
    return total


def _split(text: str, characters: str) -> tuple[str, str]:
    rest = text.lstrip(characters)
    return text[: len(text) - len(rest)], rest


def _is_number(text: str) -> bool:
    whole, dot, part = text.partition(".")
    return bool(whole) and bool(part) == bool(dot) and "." not in part
