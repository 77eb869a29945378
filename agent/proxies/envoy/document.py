"""One document of a configuration: its references, and the copy an epoch runs from.

A document is the bootstrap, or a resource file that the configuration names as a source (`path_config_source`):
listeners, clusters, secrets. The operator's file is never edited. In the copy, certificates, keys, other watched files
and such sources are replaced by `/dev/fd/N`.
"""

import base64
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Protocol

from yaml.nodes import MappingNode, Node, ScalarNode

from agent.certificates.pem import parse
from agent.certificates.references import Reference, Role
from agent.certificates.x509 import Chain, Key, require_fit
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress, spelled
from agent.proxies.envoy import control_planes, yaml_nodes
from agent.proxies.interface import StaticListener

_HEADS = ("certificate_chain", "trusted_ca")  # each names the certificate group of the files beside and below it
ROLES = {"certificate_chain": Role.CHAIN, "private_key": Role.KEY, "trusted_ca": Role.BUNDLE}

# Placeholders in a template for the values that differ between epochs, replaced as text.
DIRECTORY = "__agent_directory__"
NUMBER = "__agent_epoch__"
_FILE, _CONTENT, _DIGEST = "__agent_file_{}__", "__agent_content_{}__", "__agent_digest_{}__"
_TOKEN = re.compile(r"__agent_(?:directory|epoch|(?P<kind>file|content|digest)_(?P<number>\d+))__")
_FILE_NAME = re.compile(r"/dev/fd/__agent_file_(\d+)__")
_PROTOCOLS = {"TCP": "tcp", "0": "tcp", "UDP": "udp", "1": "udp"}  # by name or by number, as protobuf's JSON allows
_DIGITS = 16  # of a digest in a document
_PROTOBUF = frozenset({".pb", ".pb_text"})  # sources that only Envoy reads
_SOURCES = ("config_source", "lds_config", "cds_config", "sds_config", "eds_config", "rtds_config")
_LISTENER = "envoy.config.listener.v3.Listener"


class Document(ABC):
    """One document: its text and its contents of interest; the parsed nodes are not kept.

    Raises `BadInput` if it does not parse.
    """

    _remedy = yaml_nodes.BOOTSTRAP

    def __init__(self, text: str, name: str, *, is_json: bool) -> None:
        self.name = name
        self._text = text
        self._is_json = is_json
        if reserved := _TOKEN.search(text):
            message = f"cannot use {name}: the agent keeps {reserved[0]} for itself; write another word"
            raise BadInput(message)
        with self._parsed() as root:
            self.references = _references(root, name)
            """Every file it names by `filename`, with role and certificate group."""
            paths = _source_paths(root)
            self.sources = [path for path in paths if not is_protobuf(path)]
            """The resource files that it names, if YAML or JSON."""
            self.protobuf_sources = [path for path in paths if is_protobuf(path)]
            """The resource files that it names and that only Envoy can read."""
            self.secret_sources = _secret_sources(root)
            """The resource file of each secret that comes from one, by name."""
            self.control_planes = control_planes.find(root)
            """The control planes that it names, clusters or Google gRPC targets, and their addresses if known."""
            self.listeners = [each for listener in self._listener_nodes(root) for each in _addresses(listener)]
            """The addresses of its listeners that bind."""
            self._look_through(root)

    @contextmanager
    def _parsed(self) -> Iterator[MappingNode]:
        """Yield the nodes, then free them step by step: thousands freed at once block all threads."""
        root = yaml_nodes.read(self._text, self.name, is_json=self._is_json, remedy=self._remedy)
        try:
            yield root
        finally:
            yaml_nodes.take_apart(root)

    @abstractmethod
    def _look_through(self, root: MappingNode) -> None:
        """Collect or check the contents specific to this kind of document."""

    @abstractmethod
    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        """Return the listeners in this document."""

    def template(self, files: Collection[str]) -> "Template":
        """Return the template of a copy in which `files` are materialised."""
        numbered = tuple(sorted(files))
        return Template(partial(self._copied, numbered), numbered)

    def _copied(self, files: Sequence[str], *, as_json: bool) -> str:
        """Return the text of the copy, with placeholders."""
        with self._changed(files) as root:
            return yaml_nodes.write_json(root, from_json=self._is_json) if as_json else yaml_nodes.write(root)

    @contextmanager
    def _changed(self, files: Sequence[str]) -> Iterator[MappingNode]:
        """Yield the nodes of a copy, with placeholders."""
        with self._parsed() as root:
            _replace_files(root, {path: number for number, path in enumerate(files)})
            self._change(root)
            yield root

    @abstractmethod
    def _change(self, root: MappingNode) -> None:
        """Make the changes specific to this kind of document."""


class ResourceFile(Document):
    """A resource file: a DiscoveryResponse in YAML, by its suffix, or else in JSON, as in Envoy."""

    _remedy = yaml_nodes.RESOURCES

    def __init__(self, text: str, name: str) -> None:
        if not text.strip():  # an unfinished write
            message = f"cannot read {name}: it is empty; write it"
            raise BadInput(message)
        super().__init__(text, name, is_json=PurePath(name).suffix not in {".yaml", ".yml"})

    def _look_through(self, root: MappingNode) -> None:
        """Raise `Unusable` if an inline pair does not parse or fit: Envoy would serve without it."""
        for resource in self._resources(root):
            where = f"{self.name} ({yaml_nodes.text(yaml_nodes.get(resource, 'name')) or 'a resource'})"
            for _, mapping in yaml_nodes.mappings(resource):
                chain, key = _inline(mapping, "certificate_chain"), _inline(mapping, "private_key")
                if chain is not None and key is not None:
                    held = Chain.of(where, parse(where, chain, Role.CHAIN))
                    require_fit(held, Key.of(where, parse(where, key, Role.KEY)))

    def _change(self, root: MappingNode) -> None:
        """Change nothing: a resource file is the same for every epoch."""

    def _resources(self, root: MappingNode) -> list[Node]:
        listed = yaml_nodes.items(yaml_nodes.get(root, "resources"))
        return [yaml_nodes.get(each, "resource") or each for each in listed]

    def _listener_nodes(self, root: MappingNode) -> list[Node]:
        resources = self._resources(root)
        return [
            each for each in resources if (yaml_nodes.text(yaml_nodes.get(each, "@type")) or "").endswith(_LISTENER)
        ]


class Template:
    """A copy with placeholders for an epoch's values. `files`: the materialised paths, in order.

    `copy` makes its text, once for each format. `digests`: the files that each digest in it covers.
    """

    def __init__(self, copy: "Copy", files: tuple[str, ...], digests: Sequence[tuple[int, ...]] = ()) -> None:
        self._copy = copy
        self._files = files
        self._digests = digests
        self._texts: dict[bool, str] = {}

    @classmethod
    def of(cls, text: str, files: Sequence[str], digests: Sequence[tuple[int, ...]] = ()) -> "Template":
        """Return the template of a text that is the same in both formats."""

        def copy(*, as_json: bool) -> str:  # noqa: ARG001  # it is made already
            return text

        return cls(copy, tuple(files), digests)

    def fill(
        self,
        directory: str,
        number: int,
        descriptors: Mapping[str, int],
        *,
        as_json: bool = False,
        contents: Mapping[str, "Content"] | None = None,
    ) -> str:
        """Return the copy for one epoch: its directory, its number, each file's descriptor and content by path."""
        quoted = json.dumps(directory, ensure_ascii=False)[1:-1]  # the placeholder is always within double quotes
        known = contents or {}

        def word(match: re.Match[str]) -> str:
            if match["kind"] == "file":
                return str(descriptors[self._files[int(match["number"])]])
            if match["kind"] == "content":
                return base64.b64encode(known[self._files[int(match["number"])]].data).decode()
            if match["kind"] == "digest":
                covered = (known[self._files[file]].digest for file in self._digests[int(match["number"])])
                return hashlib.sha256("".join(covered).encode()).hexdigest()[:_DIGITS]
            return quoted if match[0] == DIRECTORY else str(number)

        return _TOKEN.sub(word, self.text(as_json=as_json))

    def is_made(self, *, as_json: bool) -> bool:
        """Return whether its text in this format is made."""
        return as_json in self._texts

    def text(self, *, as_json: bool) -> str:
        """Return the text with placeholders, made once."""
        if as_json not in self._texts:
            self._texts[as_json] = self._copy(as_json=as_json)
        return self._texts[as_json]


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file, and their digest."""

    data: bytes = field(repr=False)
    digest: str


def file_of(name: str) -> int | None:
    """Return the number of the materialised file that a scalar names; None for another text."""
    match = _FILE_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def content_token(number: int) -> str:
    """Return the placeholder for the content of a file, in base64."""
    return _CONTENT.format(number)


def digest_token(number: int) -> str:
    """Return the placeholder for a digest of a template."""
    return _DIGEST.format(number)


class Copy(Protocol):
    """Makes the text of a copy."""

    def __call__(self, *, as_json: bool) -> str:
        """Return the text as JSON, or as YAML."""


def _references(root: MappingNode, document: str) -> list[Reference]:
    found, groups = [], _groups(root)
    for _, mapping in yaml_nodes.mappings(root):
        for name, value in mapping.value:
            if not isinstance(name, ScalarNode):
                where = f"line {name.start_mark.line + 1}" if name.start_mark else "in it"
                message = f"cannot read {document}: {where}: a key is a list or a mapping; write a string"
                raise BadInput(message)
            role = next((role for key, role in ROLES.items() if yaml_nodes.is_key(name, key)), Role.OTHER)
            for source in [value, *yaml_nodes.items(value)]:
                path = yaml_nodes.text(yaml_nodes.get(source, "filename"))
                if path is not None:
                    found.append(Reference(path, role, groups.get(id(mapping), path)))
    return list(dict.fromkeys(found))


def _groups(root: MappingNode) -> dict[int, str]:
    """Return the certificate group of each mapping, by id.

    A chain's group includes its key, OCSP response and the like; a bundle's group includes its CRL.
    """
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


def _addresses(listener: Node) -> Iterator[StaticListener]:
    """Yield the addresses that a listener binds, if any."""
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
    """Return the inline bytes of a DataSource; None if it has none or they are not base64."""
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
    """Return whether a resource file is in one of protobuf's own formats."""
    return PurePath(path).suffix in _PROTOBUF


def place_of(address: Node | None) -> ListenAddress | None:
    """Return an address in the hot-restart protocol's spelling; None for other kinds of address."""
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
    """Return an address in Envoy's spelling, and a name as it is."""
    try:
        return spelled(host)
    except ValueError:
        return host


def _file_sources(root: MappingNode) -> Iterator[MappingNode]:
    """Yield every mapping whose `path` names a resource file."""
    for key, mapping in yaml_nodes.mappings(root):
        if yaml_nodes.is_name(key, "path_config_source") or _is_older_source(key, mapping):
            yield mapping


def _is_older_source(key: str, mapping: MappingNode) -> bool:
    """Return whether it is a ConfigSource, whose own `path` is deprecated and still accepted."""
    named = any(yaml_nodes.is_name(key, each) for each in _SOURCES)
    return named and yaml_nodes.get(mapping, "resource_api_version") is not None


def _replace_files(root: MappingNode, numbers: Mapping[str, int]) -> None:
    for _, mapping in yaml_nodes.mappings(root):
        _replace(yaml_nodes.get(mapping, "filename"), numbers)
    for mapping in _file_sources(root):
        if _replace(yaml_nodes.get(mapping, "path"), numbers):
            yaml_nodes.remove(mapping, "watched_directory")  # a sealed memfd does not change


def _replace(name: Node | None, numbers: Mapping[str, int]) -> bool:
    number = numbers.get(yaml_nodes.text(name) or "")
    if number is None or not isinstance(name, ScalarNode):
        return False
    name.value, name.tag = f"/dev/fd/{_FILE.format(number)}", "tag:yaml.org,2002:str"
    return True
