"""Reads the files of Kubernetes' downward API: a pod's labels and annotations, each a line key="value"."""

import json
import re
from collections.abc import Iterator

DIRECTORY = "/etc/istio/pod"

_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"',
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:x(?P<byte>[0-9a-fA-F]{2})|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})"
    r"|(?P<octal>[0-7]{3})|(?P<one>[abfnrtv\\'\"]))"
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def parse(text: str) -> tuple[dict[str, str], list[int]]:
    """Return the pairs, and the numbers of the lines that are none."""
    pairs: dict[str, str] = {}
    bad: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        key, equals, quoted = line.partition("=")
        value = _unquoted(quoted.rstrip("\r")) if equals and key else None
        if value is not None:
            pairs[key] = value
        elif line.strip():
            bad.append(number)
    return pairs, bad


def _unquoted(quoted: str) -> str | None:
    """Return the text of a Go string literal; None if it is none."""
    if not _QUOTED.fullmatch(quoted):
        return None
    try:
        return b"".join(_parts(quoted[1:-1])).decode(errors="replace")
    except (ValueError, OverflowError):
        return None


def _parts(body: str) -> Iterator[bytes]:
    """Yield the bytes of a literal's body: an escape may be one byte of a character."""
    at = 0
    while (backslash := body.find("\\", at)) >= 0:
        yield body[at:backslash].encode()
        escape = _ESCAPE.match(body, backslash)
        if escape is None:
            message = f"{json.dumps(body[backslash : backslash + 2])} is not an escape of Go"
            raise ValueError(message)
        yield _escaped(escape)
        at = escape.end()
    yield body[at:].encode()


def _escaped(escape: re.Match[str]) -> bytes:
    if (one := escape["one"]) is not None:
        return _ESCAPES[one].encode()
    if (byte := escape["byte"]) is not None:
        return bytes([int(byte, 16)])
    if (octal := escape["octal"]) is not None:
        return bytes([int(octal, 8)])  # more than a byte is an error in Go, too
    return chr(int(escape["short"] or escape["long"], 16)).encode()
