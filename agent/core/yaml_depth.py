"""Finds YAML nested too deeply, by counting levels in the parser's event stream.

Composing is recursive in C, where too many levels crash the process. The libyaml of PyYAML 6.0.4 has its own limit;
this module reports the same position with or without it, so that the message does not depend on the version.
"""

from contextlib import suppress
from typing import NamedTuple

import yaml

DEEPEST = 200  # levels; no bootstrap is nested deeper
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Position(NamedTuple):
    """A position in a text; both numbers start at 0, as in YAML's own marks."""

    line: int
    column: int


def first_beyond(deepest: int, text: str) -> Position | None:
    """Return the start of the first collection nested deeper than `deepest` levels.

    Returns None if there is none before the first syntax error.
    """
    try:
        return _first_beyond(deepest, text)
    except yaml.YAMLError as error:
        # The scanner reads ahead: its error hides the collections that the parser has not reported yet.
        mark = getattr(error, "problem_mark", None)  # absent for a character that YAML forbids
        with suppress(yaml.YAMLError):
            return _first_beyond(deepest, text[: mark.index if mark else 0])
    return None


def _first_beyond(deepest: int, text: str) -> Position | None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > deepest:
            assert event.start_mark is not None
            return Position(event.start_mark.line, event.start_mark.column)
    return None
