"""Messages of a document, and what is said against them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from agent.core.errors import BadInput
from agent.sidecar.config.fields import Message, Refusals

T = TypeVar("T")
EXTENSIONS = "type.googleapis.com/envoy.extensions"


class Read(NamedTuple):
    """What a reader has returned, and the reasons against the message."""

    value: Any
    why: str


def reasons(refusals: Refusals) -> str:
    """Return the reasons so far; empty if there are none."""
    try:
        refusals.check("it")
    except BadInput as error:
        return str(error).removeprefix("cannot use it: ")
    return ""


def read(reader: Callable[[Message], object], tree: object, kind: str) -> Read:
    """Read a message of a kind whose path is `m`."""
    refusals = Refusals()
    value = reader(Message(tree, "m", kind, refusals))
    return Read(value, reasons(refusals))


def taken(reader: Callable[[Message], T], tree: object, kind: str) -> T:
    """Return what a reader makes of a message, which must be good."""
    refusals = Refusals()
    value = reader(Message(tree, "m", kind, refusals))
    assert reasons(refusals) == ""
    return value


def typed(kind: str, **members: object) -> dict[str, object]:
    """Return a named `typed_config` of a kind below envoy.extensions."""
    return {"name": "n", "typed_config": {"@type": f"{EXTENSIONS}.{kind}", **members}}
