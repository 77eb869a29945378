"""Durations as Go writes them, 1m0s or 1.5h, which includes those of protobuf's JSON, 45s or 0.250s."""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def seconds(text: str) -> float:
    """Return the seconds of a duration that is not negative. Raises `ValueError` with the reason."""
    rest = text.removeprefix("+")
    if rest == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(rest) and (part := _PART.match(rest, at)):
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not rest or at < len(rest):
        message = f"{text!r} is not a duration; write it like 45s, 1m0s or 500ms"
        raise ValueError(message)
    return total


def text(span: float) -> str:
    """Return a duration as protobuf's JSON has it."""
    return f"{span:.9f}".rstrip("0").rstrip(".") + "s"
