"""A configuration as YAML nodes: read and changed without ever guessing what a scalar means.

Envoy has its own rules for what `yes`, `0777` or `1e3` are. A document that is parsed to nodes, changed there and
written again keeps every scalar as the operator wrote it, quoted or plain. JSON is read as JSON first (YAML knows no
tabs), then taken the same way. Keys are found in snake_case and in camelCase, as protobuf's JSON allows both.
"""

import json
import re
from collections.abc import Iterator

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agent.core.errors import BadInput

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.1, 5.1
_DEEPEST = 200
_TRUE = frozenset({"true", "yes", "on", "y"})


def read(text: str, name: str) -> MappingNode:
    """Parse a document whose root is a mapping; an empty one is an empty mapping. Raises `BadInput` with the line."""
    try:
        source = _as_yaml(json.loads(text)) if name.endswith(".json") else text
        _check_depth(source, name)
        root = yaml.compose(source, Loader=yaml.CSafeLoader)
    except json.JSONDecodeError as error:
        message = f"cannot read {name}: line {error.lineno}, column {error.colno}: {error.msg}; correct it"
        raise BadInput(message) from error
    except yaml.MarkedYAMLError as error:
        raise BadInput(f"cannot read {name}: {_place(error)}; correct it") from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise BadInput(f"cannot read {name}: {' '.join(str(error).split())}; correct it") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    if root is None:
        return MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(root, MappingNode):
        message = (
            f"cannot read {name}: its root is no mapping; an Envoy bootstrap begins with static_resources or the like"
        )
        raise BadInput(message)
    return root


def _too_deep(name: str) -> BadInput:
    return BadInput(f"cannot read {name}: it is nested more than {_DEEPEST} levels deep; no bootstrap is")


def _check_depth(source: str, name: str) -> None:
    """Count the levels in the flat row of events: composing is recursive in C, where too many end the process."""
    depth = 0
    for event in yaml.parse(source, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise _too_deep(name)


def _as_yaml(value: object) -> str:
    """JSON that is YAML as well: characters that YAML does not take are escaped, pairs of surrogates are not made."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{error.problem or error.context or 'not YAML'}"


def write(root: Node) -> str:
    """The document as text, as YAML."""
    text: str = yaml.serialize(root, Dumper=yaml.CSafeDumper, allow_unicode=True, width=1 << 20)
    return text


def compose(value: object) -> Node:
    """Make nodes of plain Python values."""
    node = yaml.compose(_as_yaml(value), Loader=yaml.CSafeLoader)
    assert node is not None
    return node


def get(node: Node | None, *path: str) -> Node | None:
    """Follow keys, each given in snake_case, through mappings; None where the way ends."""
    for key in path:
        if not isinstance(node, MappingNode):
            return None
        node = next((value for name, value in node.value if is_key(name, key)), None)
    return node


def items(node: Node | None) -> list[Node]:
    """The elements of a sequence; nothing for anything else."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def text(node: Node | None) -> str | None:
    """A scalar as it is written; None for anything else and for null."""
    if not isinstance(node, ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return None
    return str(node.value)


def truth(node: Node | None, *, default: bool) -> bool:
    """A scalar as Envoy reads a boolean."""
    value = text(node)
    return default if value is None else value.lower() in _TRUE


def is_key(node: Node, key: str) -> bool:
    """Tell whether a key is this one, given in snake_case, in either spelling."""
    value = text(node)
    return value == key or (value is not None and "_" in key and value == _camel(key))


def _camel(key: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), key)


def put(mapping: MappingNode, key: str, value: Node) -> None:
    """Set a key, in place of the one that is there."""
    remove(mapping, key)
    mapping.value.append((compose(key), value))


def remove(mapping: MappingNode, key: str) -> None:
    """Take a key away, if it is there."""
    mapping.value = [(name, value) for name, value in mapping.value if not is_key(name, key)]


def child_mapping(mapping: MappingNode, key: str) -> MappingNode:
    """The mapping under a key, made if it is not there."""
    found = get(mapping, key)
    if not isinstance(found, MappingNode):
        found = MappingNode("tag:yaml.org,2002:map", [])
        put(mapping, key, found)
    return found


def append(mapping: MappingNode, key: str, value: Node) -> None:
    """Add an element to the sequence under a key, made if it is not there."""
    found = get(mapping, key)
    if not isinstance(found, SequenceNode):
        found = SequenceNode("tag:yaml.org,2002:seq", [])
        put(mapping, key, found)
    found.value.append(value)


def mappings(root: Node) -> Iterator[tuple[str, MappingNode]]:
    """Every mapping below a node with the key it stands under (an element: that of its sequence), each once."""
    seen: set[int] = set()
    waiting: list[tuple[str, Node]] = [("", root)]
    while waiting:
        key, node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield key, node
            waiting += [(text(name) or "", value) for name, value in reversed(node.value)]
        elif isinstance(node, SequenceNode):
            waiting += [(key, value) for value in reversed(node.value)]
