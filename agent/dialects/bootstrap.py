"""An Envoy bootstrap as the agent sees it: what it refers to, where it listens, and the copy an epoch runs from.

The operator's file is never edited. The copy differs from it in this: certificates, keys and other watched files are
`/dev/fd/N`, the console listens on a socket of the epoch, the gate is added, and log lines name the epoch.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from yaml.nodes import MappingNode, Node, ScalarNode

from agent.core.references import Reference, Role
from agent.dialects import nodes
from agent.handoff import gate
from agent.handoff.vault import Place

ROLES = {"certificate_chain": Role.CHAIN, "private_key": Role.KEY, "trusted_ca": Role.BUNDLE}

# What differs from epoch to epoch stands in the template under these names, and is filled in by text.
_DIRECTORY = "__agent_directory__"
_NUMBER = "__agent_epoch__"
_FILE = "__agent_file_{}__"
_PROTOCOLS = {"TCP": "tcp", "0": "tcp", "UDP": "udp", "1": "udp"}  # by name or by number, as protobuf's JSON allows
_TOKEN = re.compile(r"__agent_(?:directory|epoch|file_(\d+))__")


@dataclass(frozen=True, slots=True)
class StaticListener:
    """An address that the configuration itself names."""

    place: Place
    reuse_port: bool
    dual_stack: bool

    @property
    def is_udp(self) -> bool:
        """Whether it takes datagrams."""
        return self.place.address.startswith("udp://")


@dataclass(frozen=True, slots=True)
class Console:
    """The admin address that the bootstrap names, and the paths it allows (none: all)."""

    address: str
    allowed: tuple[Node, ...]


class Bootstrap:
    """One document, parsed. Raises `BadInput` if it is none."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._text = text
        self._root = nodes.read(text, name)

    @property
    def references(self) -> list[Reference]:
        """Every file it names by `filename`, with what it is. The key of a pair belongs to the unit of its chain."""
        found = []
        for _, mapping in nodes.mappings(self._root):
            chain = nodes.text(nodes.get(mapping, "certificate_chain", "filename"))
            for name, value in mapping.value:
                role = next((role for key, role in ROLES.items() if nodes.is_key(name, key)), Role.OTHER)
                for source in [value, *nodes.items(value)]:
                    path = nodes.text(nodes.get(source, "filename"))
                    if path is not None:
                        found.append(Reference(path, role, chain if chain and role is Role.KEY else path))
        return list(dict.fromkeys(found))

    @property
    def listeners(self) -> list[StaticListener]:
        """The static listeners that bind, each of their addresses by itself."""
        found: list[StaticListener] = []
        for listener in nodes.items(nodes.get(self._root, "static_resources", "listeners")):
            if not nodes.truth(nodes.get(listener, "bind_to_port"), default=True):
                continue
            more = nodes.items(nodes.get(listener, "additional_addresses"))
            for address in [nodes.get(listener, "address"), *(nodes.get(each, "address") for each in more)]:
                place = _place(address)
                if place is not None:
                    reuse = nodes.truth(nodes.get(listener, "enable_reuse_port"), default=True)
                    dual = nodes.truth(nodes.get(address, "socket_address", "ipv4_compat"), default=False)
                    found.append(StaticListener(place, reuse, dual))
        return found

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners come and go by LDS while it runs."""
        return nodes.get(self._root, "dynamic_resources", "lds_config") is not None

    @property
    def files_by_xds(self) -> list[str]:
        """The files that it takes resources from while it runs: nobody else knows what they will hold."""
        sources = [nodes.get(mapping, "path_config_source") for _, mapping in nodes.mappings(self._root)]
        return sorted({path for source in sources if (path := nodes.text(nodes.get(source, "path"))) is not None})

    @property
    def console_address(self) -> str | None:
        """Where the operator wants the admin console, if anywhere."""
        place = _place(nodes.get(self._root, "admin", "address"))
        return None if place is None else place.address

    @property
    def allowed_paths(self) -> list[Node]:
        """The paths that the admin console may answer; none named means all."""
        return nodes.items(nodes.get(self._root, "admin", "allow_paths"))

    @property
    def node(self) -> tuple[str | None, str | None]:
        """The node's id and cluster, which REST xDS cannot do without."""
        return (
            nodes.text(nodes.get(self._root, "node", "id")),
            nodes.text(nodes.get(self._root, "node", "cluster")),
        )

    @property
    def has_log_format(self) -> bool:
        """Whether it names a format for the application log, which then may not be named by a flag."""
        return nodes.get(self._root, "application_log_config", "log_format") is not None

    def template(self, files: Collection[str], *, gated: bool) -> "Template":
        """Make the private copy, in which `files` are materialised; with the gate and the console where `gated`."""
        root = nodes.read(self._text, self.name)
        numbers = {path: number for number, path in enumerate(sorted(files))}
        _replace_files(root, numbers)
        _name_epoch(root)
        if gated:
            _add_gate(root)
            _move_console(root)
        else:
            _forget_console(root)
        return Template(nodes.write(root), tuple(sorted(files)))


@dataclass(frozen=True, slots=True)
class Template:
    """A private copy before it is any epoch's. `files`: the materialised paths, numbered in this order."""

    text: str
    files: tuple[str, ...]

    def fill(self, directory: str, number: int, descriptors: Mapping[str, int]) -> str:
        """The copy for one epoch: its directory, its number, and under which descriptor it finds each file."""
        quoted = json.dumps(directory, ensure_ascii=False)[1:-1]  # it always stands within double quotes

        def word(match: re.Match[str]) -> str:
            if match[1] is not None:
                return str(descriptors[self.files[int(match[1])]])
            return quoted if match[0] == _DIRECTORY else str(number)

        return _TOKEN.sub(word, self.text)


def _place(address: Node | None) -> Place | None:
    """An address as the hot-restart protocol spells it."""
    pipe = nodes.text(nodes.get(address, "pipe", "path"))
    if pipe is not None:
        return Place(f"unix://{pipe}")
    inner = nodes.get(address, "socket_address")
    host = nodes.text(nodes.get(inner, "address"))
    if host is None:
        return None
    port = nodes.text(nodes.get(inner, "port_value")) or "0"
    scheme = _PROTOCOLS.get(nodes.text(nodes.get(inner, "protocol")) or "TCP", "tcp")
    namespace = nodes.text(nodes.get(inner, "network_namespace_filepath")) or ""
    return Place.at(scheme, _canonical(host), port, namespace)


def _canonical(host: str) -> str:
    """An address as Envoy spells it: `::0` is `::`."""
    try:
        return ip_address(host).compressed
    except ValueError:
        return host


def _replace_files(root: MappingNode, numbers: Mapping[str, int]) -> None:
    for _, mapping in nodes.mappings(root):
        filename = nodes.get(mapping, "filename")
        path = nodes.text(filename)
        if path is not None and path in numbers and isinstance(filename, ScalarNode):
            filename.value = f"/dev/fd/{_FILE.format(numbers[path])}"
            filename.tag = "tag:yaml.org,2002:str"


def _name_epoch(root: MappingNode) -> None:
    log_format = nodes.get(root, "application_log_config", "log_format")
    line = nodes.get(log_format, "text_format")
    if isinstance(line, ScalarNode):
        line.value = f"[epoch {_NUMBER}] {line.value}"
    members = nodes.get(log_format, "json_format")
    if isinstance(members, MappingNode) and nodes.get(members, "epoch") is None:
        nodes.put(members, "epoch", nodes.compose(_NUMBER))


def _add_gate(root: MappingNode) -> None:
    resources = nodes.child_mapping(root, "static_resources")
    nodes.append(resources, "clusters", nodes.compose(gate.cluster(f"{_DIRECTORY}/gate")))
    nodes.append(resources, "listeners", nodes.compose(gate.listener()))


def _move_console(root: MappingNode) -> None:
    admin = nodes.child_mapping(root, "admin")
    nodes.put(admin, "address", nodes.compose({"pipe": {"path": f"{_DIRECTORY}/admin", "mode": 0o600}}))
    nodes.remove(admin, "allow_paths")  # the agent keeps to them at the address that others use


def _forget_console(root: MappingNode) -> None:
    admin = nodes.get(root, "admin")
    if isinstance(admin, MappingNode):
        nodes.remove(admin, "address")
        nodes.remove(admin, "allow_paths")
