"""Writes edits as a JSON patch (RFC 6902), with pointers of RFC 6901."""

from collections.abc import Iterable

from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Remove, Set

Operation = dict[str, JsonValue]
"""One operation of a JSON patch."""


def json_patch(edits: Iterable[Edit]) -> list[Operation]:
    """Return the operations of these edits, in their order: each applies to the result of the ones before."""
    return [_operation(edit) for edit in edits]


def pointer(path: Path) -> str:
    """Return the JSON pointer of a path: `~` and `/` in a key are escaped."""
    return "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in path)


def _operation(edit: Edit) -> Operation:
    match edit:
        case Append(path, value):
            return {"op": "add", "path": f"{pointer(path)}/-", "value": value}
        case Insert(path, value):
            return {"op": "add", "path": pointer(path), "value": value}
        case Set(path, value):
            return {"op": _setting(path), "path": pointer(path), "value": value}
        case Remove(path):
            return {"op": "remove", "path": pointer(path)}


def _setting(path: Path) -> str:
    """Return the operation that sets: `add` makes a key or replaces it, but in a list it would insert."""
    return "add" if path and isinstance(path[-1], str) else "replace"
