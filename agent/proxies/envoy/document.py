"""One document of a configuration as the agent sees it: what it refers to, and the copy an epoch runs from.

A document is the bootstrap, or a file of resources that the configuration names as a source (`path_config_source`):
listeners, clusters, secrets. The operator's file is never edited. In the copy, certificates, keys, other watched files
and such sources are `/dev/fd/N`.
"""

import base64
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import PurePath
from typing import Protocol

from yaml.nodes import MappingNode, Node, ScalarNode

from agent.certificates.pem import parse
from agent.certificates.references import Reference, Role
from agent.certificates.x509 import Chain, Key, require_fit
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy import yaml_nodes
from agent.proxies.interface import StaticListener

_HEADS = ("certificate_chain", "trusted_ca")  # each gives its name to the unit of the files beside and below it
ROLES = {"certificate_chain": Role.CHAIN, "private_key": Role.KEY, "trusted_ca": Role.BUNDLE}

# What differs from epoch to epoch stands in the template under these names, and is filled in by text.
DIRECTORY = "__agent_directory__"
NUMBER = "__agent_epoch__"
_FILE = "__agent_file_{}__"
_TOKEN = re.compile(r"__agent_(?:directory|epoch|file_(\d+))__")
_PROTOCOLS = {"TCP": "tcp", "0": "tcp", "UDP": "udp", "1": "udp"}  # by name or by number, as protobuf's JSON allows
_PROTOBUF = frozenset({".pb", ".pb_text"})  # sources that only Envoy reads
_SOURCES = ("config_source", "lds_config", "cds_config", "sds_config", "eds_config", "rtds_config")
_LISTENER = "envoy.config.listener.v3.Listener"


class Document(ABC):
    """One document, parsed, looked through and forgotten: what is kept is its text, and what was found in it.

    Raises `BadInput` if it is none.
    """

    _remedy = yaml_nodes.BOOTSTRAP

    def __init__(self, text: str, name: str, *, is_json: bool) -> None:
        self.name = name
        self._text = text
        self._is_json = is_json
        with self._parsed() as root:
            self.references = _references(root, name)
            """Every file it names by `filename`, and what it is. What goes with a chain or a bundle is of its unit."""
            paths = _source_paths(root)
            self.sources = [path for path in paths if not is_protobuf(path)]
            """The files that it takes resources from, as far as they are YAML or JSON."""
            self.protobuf_sources = [path for path in paths if is_protobuf(path)]
            """The files that it takes resources from and that only Envoy can read."""
            self.secret_sources = _secret_sources(root)
            """The names of the secrets that it takes from files, and from which."""
            self.control_planes = _control_planes(root)
            """The control planes it takes resources from: names of clusters, or the targets of Google's gRPC."""
            self.listeners = [each for listener in self._listener_nodes(root) for each in _addresses(listener)]
            """The listeners in it that bind, each of their addresses by itself."""
            self._look_through(root)

    @contextmanager
    def _parsed(self) -> Iterator[MappingNode]:
        """Give the nodes, which are taken apart afterwards: nobody waits until thousands of them are freed at once."""
        root = yaml_nodes.read(self._text, self.name, is_json=self._is_json, remedy=self._remedy)
        try:
            yield root
        finally:
            yaml_nodes.take_apart(root)

    @abstractmethod
    def _look_through(self, root: MappingNode) -> None:
        """Find what only this kind of document has."""

    @abstractmethod
    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        """The listeners that it holds."""

    def template(self, files: Collection[str]) -> "Template":
        """Make the private copy, in which `files` are materialised."""
        numbered = tuple(sorted(files))
        return Template(partial(self._copied, numbered), numbered)

    def _copied(self, files: Sequence[str], *, as_json: bool) -> str:
        """The text of the private copy."""
        with self._parsed() as root:
            _replace_files(root, {path: number for number, path in enumerate(files)})
            self._change(root)
            return yaml_nodes.write_json(root, from_json=self._is_json) if as_json else yaml_nodes.write(root)

    @abstractmethod
    def _change(self, root: MappingNode) -> None:
        """Change what only this kind of document has."""


class ResourceFile(Document):
    """A file of resources: a DiscoveryResponse, as YAML where its name says so, else as JSON (as Envoy takes it)."""

    _remedy = yaml_nodes.RESOURCES

    def __init__(self, text: str, name: str) -> None:
        if not text.strip():  # half of a write
            message = f"cannot read {name}: it is empty; write it"
            raise BadInput(message)
        super().__init__(text, name, is_json=PurePath(name).suffix not in {".yaml", ".yml"})

    def _look_through(self, root: MappingNode) -> None:
        """Raise `Unusable` for a pair within it that does not parse or fit: Envoy would serve without it."""
        for resource in self._resources(root):
            where = f"{self.name} ({yaml_nodes.text(yaml_nodes.get(resource, 'name')) or 'a resource'})"
            for _, mapping in yaml_nodes.mappings(resource):
                chain, key = _inline(mapping, "certificate_chain"), _inline(mapping, "private_key")
                if chain is not None and key is not None:
                    held = Chain.of(where, parse(where, chain, Role.CHAIN))
                    require_fit(held, Key.of(where, parse(where, key, Role.KEY)))

    def _change(self, root: MappingNode) -> None:
        """Nothing more: it belongs to no single epoch."""

    def _resources(self, root: MappingNode) -> list[Node]:
        listed = yaml_nodes.items(yaml_nodes.get(root, "resources"))
        return [yaml_nodes.get(each, "resource") or each for each in listed]

    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        resources = self._resources(root)
        return [
            each for each in resources if (yaml_nodes.text(yaml_nodes.get(each, "@type")) or "").endswith(_LISTENER)
        ]


class Template:
    """A private copy before it is any epoch's. `files`: the materialised paths, numbered in this order.

    `copy` makes its text, once for each format that it is wanted in.
    """

    def __init__(self, copy: "Copy", files: tuple[str, ...]) -> None:
        self._copy = copy
        self._files = files
        self._texts: dict[bool, str] = {}

    def fill(self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False) -> str:
        """The copy for one epoch: its directory, its number, and under which descriptor it finds each file."""
        quoted = json.dumps(directory, ensure_ascii=False)[1:-1]  # it always stands within double quotes

        def word(match: re.Match[str]) -> str:
            if match[1] is not None:
                return str(descriptors[self._files[int(match[1])]])
            return quoted if match[0] == DIRECTORY else str(number)

        return _TOKEN.sub(word, self.text(as_json=as_json))

    def is_made(self, *, as_json: bool) -> bool:
        """Tell whether its text in this format is made already."""
        return as_json in self._texts

    def text(self, *, as_json: bool) -> str:
        """The copy before that, made once."""
        if as_json not in self._texts:
            self._texts[as_json] = self._copy(as_json=as_json)
        return self._texts[as_json]


class Copy(Protocol):
    """Makes the text of a private copy."""

    def __call__(self, *, as_json: bool) -> str:
        """As JSON, or as YAML."""


def _references(root: MappingNode, document: str) -> list[Reference]:
    found, units = [], _units(root)
    for _, mapping in yaml_nodes.mappings(root):
        for name, value in mapping.value:
            if not isinstance(name, ScalarNode):
                where = f"line {name.start_mark.line + 1}" if name.start_mark else "in it"
                message = f"cannot read {document}: {where}: a key is a list or a mapping; write a word"
                raise BadInput(message)
            role = next((role for key, role in ROLES.items() if yaml_nodes.is_key(name, key)), Role.OTHER)
            for source in [value, *yaml_nodes.items(value)]:
                path = yaml_nodes.text(yaml_nodes.get(source, "filename"))
                if path is not None:
                    found.append(Reference(path, role, units.get(id(mapping), path)))
    return list(dict.fromkeys(found))


def _units(root: MappingNode) -> dict[int, str]:
    """Whose files a mapping names: to a chain belong its key, OCSP response and the like, to authorities their CRL."""
    found: dict[int, str] = {}
    for _, mapping in yaml_nodes.mappings(root):
        names = (yaml_nodes.text(yaml_nodes.get(mapping, key, "filename")) for key in _HEADS)
        if head := next(filter(None, names), None):
            for _, inner in yaml_nodes.mappings(mapping):
                found.setdefault(id(inner), head)
    return found


def _source_paths(root: MappingNode) -> list[str]:
    paths = (yaml_nodes.text(yaml_nodes.get(mapping, "path")) for mapping in _file_sources(root))
    return list(dict.fromkeys(path for path in paths if path is not None))


def _secret_sources(root: MappingNode) -> dict[str, str]:
    found = {}
    for _, mapping in yaml_nodes.mappings(root):
        name, source = yaml_nodes.text(yaml_nodes.get(mapping, "name")), yaml_nodes.get(mapping, "sds_config")
        paths = [yaml_nodes.get(source, "path"), yaml_nodes.get(source, "path_config_source", "path")]
        path = next(filter(None, map(yaml_nodes.text, paths)), None)
        if name is not None and path is not None:
            found[name] = path
    return found


def _control_planes(root: MappingNode) -> list[str]:
    found: list[str | None] = []
    for key, mapping in yaml_nodes.mappings(root):
        if yaml_nodes.is_name(key, "api_config_source") or yaml_nodes.is_name(key, "ads_config"):
            found += map(yaml_nodes.text, yaml_nodes.items(yaml_nodes.get(mapping, "cluster_names")))
            for service in yaml_nodes.items(yaml_nodes.get(mapping, "grpc_services")):
                found.append(yaml_nodes.text(yaml_nodes.get(service, "envoy_grpc", "cluster_name")))
                found.append(yaml_nodes.text(yaml_nodes.get(service, "google_grpc", "target_uri")))
    return list(dict.fromkeys(name for name in found if name is not None))


def _addresses(listener: Node) -> Iterator[StaticListener]:
    """Where a listener binds, if it does."""
    if not yaml_nodes.truth(yaml_nodes.get(listener, "bind_to_port"), default=True):
        return
    more = yaml_nodes.items(yaml_nodes.get(listener, "additional_addresses"))
    for address in [yaml_nodes.get(listener, "address"), *(yaml_nodes.get(each, "address") for each in more)]:
        place = place_of(address)
        if place is not None:
            reuse = yaml_nodes.truth(yaml_nodes.get(listener, "enable_reuse_port"), default=True)
            dual = yaml_nodes.truth(yaml_nodes.get(address, "socket_address", "ipv4_compat"), default=False)
            yield StaticListener(place, reuse, dual)


def _inline(mapping: MappingNode, key: str) -> bytes | None:
    """The bytes of a DataSource that has them itself; None for any other, and for what is no base64."""
    source = yaml_nodes.get(mapping, key)
    text, data = (
        yaml_nodes.text(yaml_nodes.get(source, "inline_string")),
        yaml_nodes.text(yaml_nodes.get(source, "inline_bytes")),
    )
    if text is not None:
        return text.encode()
    try:
        return None if data is None else base64.b64decode(data, validate=True)
    except ValueError:
        return None


def is_protobuf(path: str) -> bool:
    """Whether a source is in one of protobuf's own formats."""
    return PurePath(path).suffix in _PROTOBUF


def place_of(address: Node | None) -> ListenAddress | None:
    """An address as the hot-restart protocol spells it."""
    pipe = yaml_nodes.text(yaml_nodes.get(address, "pipe", "path"))
    if pipe is not None:
        return ListenAddress(f"unix://{pipe}")
    inner = yaml_nodes.get(address, "socket_address")
    host = yaml_nodes.text(yaml_nodes.get(inner, "address"))
    if host is None:
        return None
    port = yaml_nodes.text(yaml_nodes.get(inner, "port_value")) or "0"
    scheme = _PROTOCOLS.get(yaml_nodes.text(yaml_nodes.get(inner, "protocol")) or "TCP", "tcp")
    namespace = yaml_nodes.text(yaml_nodes.get(inner, "network_namespace_filepath")) or ""
    return ListenAddress.at(scheme, _canonical(host), port, namespace)


def _canonical(host: str) -> str:
    """An address as Envoy spells it: `::0` is `::`."""
    try:
        return ip_address(host).compressed
    except ValueError:
        return host


def _file_sources(root: MappingNode) -> Iterator[MappingNode]:
    """Every mapping whose `path` names a file of resources."""
    for key, mapping in yaml_nodes.mappings(root):
        if yaml_nodes.is_name(key, "path_config_source") or _is_older_source(key, mapping):
            yield mapping


def _is_older_source(key: str, mapping: MappingNode) -> bool:
    """Tell whether it is a ConfigSource, whose own `path` is deprecated and still taken."""
    named = any(yaml_nodes.is_name(key, each) for each in _SOURCES)
    return named and yaml_nodes.get(mapping, "resource_api_version") is not None


def _replace_files(root: MappingNode, numbers: Mapping[str, int]) -> None:
    for _, mapping in yaml_nodes.mappings(root):
        _replace(yaml_nodes.get(mapping, "filename"), numbers)
    for mapping in _file_sources(root):
        if _replace(yaml_nodes.get(mapping, "path"), numbers):
            yaml_nodes.remove(mapping, "watched_directory")  # what is sealed does not change


def _replace(name: Node | None, numbers: Mapping[str, int]) -> bool:
    number = numbers.get(yaml_nodes.text(name) or "")
    if number is None or not isinstance(name, ScalarNode):
        return False
    name.value, name.tag = f"/dev/fd/{_FILE.format(number)}", "tag:yaml.org,2002:str"
    return True
