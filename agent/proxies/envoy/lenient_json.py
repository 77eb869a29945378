"""Parses JSON as leniently as protobuf, by which Envoy reads .json files and JSON resources.

It accepts a comma before a closing bracket, strings in single quotes, names without quotes as keys, and control
characters within strings. It accepts no comments, and no NaN or Infinity.
"""

import json
import re
from collections.abc import Iterator
from typing import Never

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
    | (?P<mark>[][{}:,])
    | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[^][{}:,\s"']+)""",
    re.DOTALL | re.VERBOSE,
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_CLOSING = ("]", "}")
_QUOTES = ('"', "'")


class Pairs(list[tuple[str, object]]):
    """The key-value pairs of an object, including duplicate keys."""


def loads(text: str) -> object:
    """Parse a document; objects become `Pairs`.

    Raises ValueError: `json.JSONDecodeError` with a strict parser's position.
    """
    try:
        return _strict(text)
    except json.JSONDecodeError as error:
        strict = " ".join(_made_strict(text))  # not "": `1 2` is not 12
        try:
            return _strict(strict)
        except json.JSONDecodeError:
            raise error from None


def _strict(text: str) -> object:
    found = json.loads(text, strict=False, object_pairs_hook=Pairs, parse_constant=_refuse)
    if _SURROGATE.search(text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise json.JSONDecodeError("half of a surrogate pair is not a character", "", 0) from error
    return found


def _refuse(word: str) -> Never:
    raise json.JSONDecodeError(f"{word} is not a value", "", 0)


def _made_strict(text: str) -> Iterator[str]:
    """Yield the document's tokens in strict JSON; tokens that are not valid remain unchanged."""
    found = list(_tokens(text))
    for (kind, word), (_, after) in zip(found, [*found, ("", "")][1:], strict=True):
        if word == "," and after in _CLOSING:
            continue
        if kind == "quoted" and word.startswith("'"):
            yield _double_quoted(word)
        elif kind == "word" and after == ":" and _NAME.fullmatch(word):
            yield f'"{word}"'
        else:
            yield word


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of each token except blanks; what is invalid has an empty kind."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            # No quote matches after an open one, and each would be searched for up to the end.
            rest = text[at:] if text[at] in _QUOTES else text[at]
            yield "", rest
            at += len(rest)
            continue
        if match.lastgroup != "blank":
            yield match.lastgroup or "", match[0]
        at = match.end()


def _double_quoted(token: str) -> str:
    inner = re.sub(r"""\\(.)|(")""", lambda match: _escaped(match[1], match[2]), token[1:-1], flags=re.DOTALL)
    return f'"{inner}"'


def _escaped(after_backslash: str | None, quote: str | None) -> str:
    if quote is not None:
        return '\\"'
    return "'" if after_backslash == "'" else f"\\{after_backslash}"
