"""The depth of a YAML text, counted in the parser's flat row of events.

Composing is recursive in C, where too many levels end the process. The libyaml of PyYAML 6.0.4 has a limit of its own;
this module finds the same place with or without it, so that the message does not depend on the version.
"""

from contextlib import suppress
from typing import NamedTuple

import yaml

DEEPEST = 200  # levels; no bootstrap is nested deeper
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Position(NamedTuple):
    """A place in a text; both numbers begin at 0, as in YAML's own marks."""

    line: int
    column: int


def first_beyond(deepest: int, text: str) -> Position | None:
    """The start of the first collection below `deepest` levels; None if there is none before the first error."""
    try:
        return _first_beyond(deepest, text)
    except yaml.YAMLError as error:
        # The scanner reads ahead: its error hides the collections that the parser has not reported yet.
        mark = getattr(error, "problem_mark", None)  # none where YAML does not allow a character
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
