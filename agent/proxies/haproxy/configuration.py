"""The operator's HAProxy configuration with its certificate lists, and the private copies of both."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from posixpath import basename, dirname, join

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.proxies.haproxy import certificate_list
from agent.proxies.haproxy.certificate_list import Entry
from agent.proxies.haproxy.delivery import Delivery, Pushable
from agent.proxies.haproxy.document import BUNDLES, COMPANIONS, KEY, OWN_LIST, Document, Named, Replaced, parse, quoted
from agent.proxies.interface import TlsListener
from agent.proxies.standalone import StandaloneConfiguration, every_name_in

_UNREADABLE = re.compile(r"[\s\[\]#]")
_AUTHORITIES = {"ca-file": "ca-file", "ca-verify-file": "ca-file", "crl-file": "crl-file"}  # to the console's word


@dataclass(frozen=True, slots=True)
class Certificate:
    """A PEM file that HAProxy loads, with the files that belong to it.

    `companions`: their paths, by the names under which HAProxy looks for them. `key`: the file with the private key.
    """

    path: str
    key: str
    companions: Mapping[str, str]

    @property
    def paths(self) -> tuple[str, ...]:
        """All of its files."""
        return (self.path, *self.companions.values())


class Configuration(StandaloneConfiguration):
    """A parsed configuration. Raises `BadInput` naming the file, the line and the next step.

    `resources` has the certificate lists, by path, and the names in the directories of certificates, see `unread`.
    `directory` and `environment` are the process's: where relative paths start, and its variables.
    """

    def __init__(
        self,
        text: str,
        name: str,
        directory: str,
        environment: Mapping[str, str],
        resources: Mapping[str, bytes],
        *,
        pushes: bool,
    ) -> None:
        super().__init__(name)
        self.text = text
        self._document = parse(text, name, directory, environment)
        self._resources = resources
        self.consoles = frozenset(self._document.consoles)
        self.lists = {
            each.path: _List.read(resources[each.path], each.path, directory, self._document)
            for each in self._document.files
            if each.keyword == "crt-list" and each.path in resources
        }
        if any(each.path == OWN_LIST for each in self._document.files):
            self.lists[OWN_LIST] = _List.of(self._document.keys)
        self._copies: dict[frozenset[str], Copies] = {}
        self.references = list(dict.fromkeys(self._references()))
        self.unread = self._unread()
        self.pushable_files = self._pushable() if pushes else frozenset()
        self.tls_listeners = [TlsListener(place, None) for bind in self._document.binds for place in bind.places]

    # What it names

    def _unread(self) -> list[str]:
        """Return the certificate lists, and wildcards for the directories of certificates, that were not provided."""
        lists = [each.path for each in self._document.files if each.keyword == "crt-list"]
        wanted = [*lists, *map(every_name_in, dict.fromkeys(map(dirname, self._named_certificates())))]
        wanted += [every_name_in(path) for path in self._named_certificates() if self.is_directory(path)]
        return [each for each in dict.fromkeys(wanted) if each not in self._resources and each != OWN_LIST]

    def _named_certificates(self) -> list[str]:
        named = [each.path for each in self._document.files if each.keyword == "crt"]
        listed = [each.path for found in self.lists.values() for each in found.entries if each.keyword == "crt"]
        return list(dict.fromkeys([*named, *listed]))

    def _names(self, directory: str) -> Collection[str]:
        """Return the paths in a directory; those of directories end with a slash."""
        return self._listings.get(every_name_in(directory), frozenset())

    @cached_property
    def _listings(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(data.decode().split("\n")) for name, data in self._resources.items() if "*" in name}

    def is_directory(self, path: str) -> bool:
        """Return whether a path is a directory of certificates."""
        return f"{path}/" in self._names(dirname(path))

    def _certificate(self, path: str) -> Certificate:
        beside = self._names(dirname(path))
        found: dict[str, str] = {}
        key = path
        for suffix in COMPANIONS:
            name = self._document.companion(path, suffix)
            own = self._document.keys.get(path) if suffix == KEY else None
            own = None if own == path else own
            if name is not None and (own is not None or name in beside):
                found[name] = own or name
                key = found[name] if suffix == KEY else key
        return Certificate(path, key, found)

    def _in_directory(self, path: str) -> list[Certificate]:
        names = sorted(name for name in self._names(path) if name and not name.endswith(("/", *COMPANIONS)))
        return [self._certificate(name) for name in names]

    def _bundle(self, path: str) -> list[Certificate]:
        """Return the files of a certificate bundle: HAProxy looks for them where it finds no file of the name."""
        beside = self._names(dirname(path))
        if path in beside or "bundle" not in self._document.extra:
            return []
        return [self._certificate(path + suffix) for suffix in BUNDLES if path + suffix in beside]

    def certificates_at(self, path: str) -> list[Certificate]:
        """Return what HAProxy loads for a `crt`: one file, every file of a directory, or a bundle."""
        if self.is_directory(path):
            return self._in_directory(path)
        return self._bundle(path) or [self._certificate(path)]

    def loaded_as(self, path: str, used: str, each: Certificate) -> str:
        """Return HAProxy's name of a certificate of a `crt` whose path is `used` in a copy."""
        if each.path == path:
            return used
        return f"{used}/{self.link(each.path)}" if self.is_directory(path) else used + each.path.removeprefix(path)

    def link(self, path: str) -> str:
        """Return the name of a certificate's link.

        HAProxy cannot read some characters in a list, and its console takes `.crt` for no part of a name.
        """
        name = _UNREADABLE.sub("_", basename(path))
        return f"{name}.pem" if name.endswith(".crt") and not self._document.removes_extension else name

    def links(self, certificate: Certificate) -> Iterator[tuple[str, str]]:
        """Yield the names of a certificate's links with the paths that they stand for."""
        base = self.link(certificate.path)
        yield base, certificate.path
        for name, path in certificate.companions.items():
            linked = self._document.companion(base, f".{name.rpartition('.')[2]}")
            assert linked is not None, "HAProxy looks for it"
            yield linked, path

    def _references(self) -> Iterator[Reference]:
        for path in self._named_certificates():
            for certificate in self.certificates_at(path):
                yield from _pair(certificate)
        trusted = {line: path for keyword, _, path, line in self._others() if keyword == "ca-file"}
        for keyword, role, path, line in self._others():
            if not self.is_directory(path):
                yield Reference(path, role, trusted.get(line, path) if keyword == "crl-file" else path)

    def _others(self) -> Iterator[tuple[str, Role, str, str]]:
        """Yield the other files: keyword, role, path, and what identifies the line."""
        for each in self._document.files:
            if each.keyword not in {"crt", "crt-list"}:
                yield each.keyword, each.role, each.path, f"{each.line}"
        for name, found in self.lists.items():
            for entry in found.entries:
                if entry.keyword != "crt":
                    role = Role.OTHER if entry.keyword == "crl-file" else Role.BUNDLE
                    yield entry.keyword, role, entry.path, f"{name}:{entry.line}"

    # Pushes

    def _pushable(self) -> frozenset[str]:
        """Return the certificates with their keys, the authorities and the revocation lists."""
        found = [each for path in self._named_certificates() for each in self.certificates_at(path)]
        pairs = {path for each in found for path in each.paths if not path.endswith((".ocsp", ".sctl", ".issuer"))}
        others = {path for keyword, _, path, _ in self._others() if keyword in _AUTHORITIES}
        unknown = {path for keyword, _, path, _ in self._others() if keyword not in _AUTHORITIES}
        return frozenset(pairs | others) - unknown

    # Copies

    def copies(self, materialised: Collection[str]) -> "Copies":
        """Return the copies in which these paths are descriptors, made once."""
        key = frozenset(materialised)
        if key not in self._copies:
            self._copies[key] = Copies(self, key)
        return self._copies[key]

    @property
    def named(self) -> list[Named]:
        """Every TLS file that the text names, in order."""
        return self._document.files

    @property
    def replaced(self) -> list[Replaced]:
        """The other parts of the text that a copy replaces."""
        return self._document.replaced


@dataclass(frozen=True, slots=True)
class _List:
    """A certificate list: its text and what it names."""

    text: str
    entries: Sequence[Entry]

    @classmethod
    def read(cls, data: bytes, path: str, directory: str, document: Document) -> "_List":
        """Parse a file. Raises `BadInput`."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            message = f"cannot read {path}: byte {error.start} is not UTF-8; save it as UTF-8"
            raise BadInput(message) from error
        bases = (join(directory, document.bases[each]) for each in ("crt-base", "ca-base"))
        return cls(text, list(certificate_list.entries(text, *bases)))

    @classmethod
    def of(cls, certificates: Iterable[str]) -> "_List":
        """Make a list of certificates, one a line."""
        entries: list[Entry] = []
        text = ""
        for number, path in enumerate(certificates, 1):
            entries.append(Entry("crt", path, len(text), len(text) + len(path), number))
            text += f"{path}\n"
        return cls(text, entries)


class Copies:
    """The copies of a configuration and its lists for one set of materialised paths."""

    def __init__(self, configuration: Configuration, materialised: frozenset[str]) -> None:
        self._configuration = configuration
        self._materialised = materialised

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return the configuration of one epoch; there is no extra document."""
        del number, as_json
        paths = _Paths(self._configuration, self._materialised, directory, descriptors)
        replaced = list(self._configuration.replaced)
        replaced += [
            Replaced(each.word.start, each.word.end, quoted(new))
            for each in self._configuration.named
            if (new := paths.of(each.keyword, each.path)) is not None
        ]
        return _spliced(self._configuration.text, replaced), None

    def fill_pushable(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool
    ) -> tuple[str, str | None, Delivery]:
        """Return the same, and what pushes into the epoch."""
        main, extra = self.fill(directory, number, descriptors, as_json=as_json)
        paths = _Paths(self._configuration, self._materialised, directory, descriptors)
        return main, extra, Delivery(tuple(paths.pushable()))

    def tree(self, directory: str, descriptors: Mapping[str, int]) -> Mapping[str, str | bytes]:
        """Return the lists, and directories of links to descriptors for certificates with companions."""
        return _Paths(self._configuration, self._materialised, directory, descriptors).tree()

    def prepare(self, *, as_json: bool) -> None:
        """Do nothing: a copy is made in a moment."""

    def are_made(self, *, as_json: bool) -> bool:
        """Return True, see `prepare`."""
        del as_json
        return True

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add nothing: lists are in the epoch's directory."""


class _Paths:
    """The paths under which one epoch finds its files.

    A file is /dev/fd/N. HAProxy finds companions by their names, so a certificate that has some, and a directory, are
    links in a directory of the epoch that is named after the descriptors in it.
    """

    def __init__(
        self, configuration: Configuration, materialised: frozenset[str], directory: str, descriptors: Mapping[str, int]
    ) -> None:
        self._configuration = configuration
        self._materialised = materialised
        self._directory = directory
        self._descriptors = descriptors

    def of(self, keyword: str, path: str) -> str | None:
        """Return the path that replaces one in the text; None to keep it."""
        if keyword == "crt-list":
            return None if path not in self._configuration.lists else f"{self._directory}/{self._list(path)[0]}"
        if keyword != "crt":
            return f"/dev/fd/{self._descriptors[path]}" if path in self._materialised else None
        found = self._configuration.certificates_at(path)
        if not found or not all(each in self._materialised for one in found for each in one.paths):
            return None
        is_single = [each.path for each in found] == [path]
        if is_single and not found[0].companions:
            return f"/dev/fd/{self._descriptors[path]}"
        view = f"{self._directory}/{self._view(found)[0]}"
        if self._configuration.is_directory(path):
            return view
        return f"{view}/{self._configuration.link(path) if is_single else basename(path)}"

    def _view(self, found: Collection[Certificate]) -> tuple[str, dict[str, str]]:
        files = {name: path for each in found for name, path in self._configuration.links(each)}
        links = {name: f"/dev/fd/{self._descriptors[path]}" for name, path in files.items()}
        return f"files-{_digest(repr(sorted(links.items())))}", links

    def _list(self, path: str) -> tuple[str, bytes]:
        found = self._configuration.lists[path]
        replaced = [
            Replaced(each.start, each.end, new)
            for each in found.entries
            if (new := self.of(each.keyword, each.path)) is not None
        ]
        text = _spliced(found.text, replaced)
        return f"files-{_digest(text)}/{basename(path)}", text.encode()

    def tree(self) -> dict[str, str | bytes]:
        """Return everything that has to be in the epoch's directory."""
        made: dict[str, str | bytes] = {}
        for path in self._configuration.lists:
            name, data = self._list(path)
            made[name] = data
        for path in self._certificates():
            found = self._configuration.certificates_at(path)
            used = self.of("crt", path)
            if used is not None and not used.startswith("/dev/fd/"):
                view, links = self._view(found)
                made |= {f"{view}/{name}": target for name, target in links.items()}
        return made

    def _certificates(self) -> list[str]:
        named = [each.path for each in self._configuration.named if each.keyword == "crt"]
        lists = self._configuration.lists.values()
        return [*named, *(each.path for found in lists for each in found.entries if each.keyword == "crt")]

    def pushable(self) -> Iterator[Pushable]:
        """Yield each file that can be pushed, under each name that HAProxy has for it."""
        for path in dict.fromkeys(self._certificates()):
            used = self.of("crt", path)
            if used is None:
                continue
            found = self._configuration.certificates_at(path)
            for each in found:
                name = self._configuration.loaded_as(path, used, each)
                yield Pushable("cert", each.path, name, name)
                if each.key != each.path:
                    yield Pushable("cert", each.key, f"{name}.key", name)
        others = [(each.keyword, each.path) for each in self._configuration.named]
        others += [(e.keyword, e.path) for found in self._configuration.lists.values() for e in found.entries]
        for keyword, path in dict.fromkeys(others):
            word, used = _AUTHORITIES.get(keyword), self.of(keyword, path)
            if word is not None and used is not None:
                yield Pushable(word, path, used, used)


def _pair(certificate: Certificate) -> Iterator[Reference]:
    yield Reference(certificate.path, Role.CHAIN, certificate.path)
    yield Reference(certificate.key, Role.KEY, certificate.path)
    for path in certificate.companions.values():
        if path != certificate.key:
            yield Reference(path, Role.OTHER, certificate.path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spliced(text: str, replaced: Collection[Replaced]) -> str:
    parts, at = [], 0
    for each in sorted(replaced, key=lambda each: each.start):
        parts += [text[at : each.start], each.text]
        at = each.end
    return "".join([*parts, text[at:]])
