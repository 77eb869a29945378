"""Finds in an HAProxy configuration the files, the listeners, and what the agent's private copy changes.

The copy is the operator's text with some words replaced: paths of TLS files, which become descriptors, and lines that
would take the process out of the agent's hands (`daemon`, `master-worker`). Everything else stays byte for byte.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from posixpath import dirname, isabs, join, normpath

from agent.certificates.references import Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress, spelled
from agent.proxies.haproxy.tokens import Line, Word, lines

SECTIONS = frozenset(
    {
        "global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist", "mailers", "program",
        "ring", "cache", "http-errors", "fcgi-app", "log-forward", "log-profile", "traces", "crt-store", "acme",
    }
)  # fmt: skip
_CERTIFICATE = {"crt": Role.CHAIN}
_AUTHORITIES = {"ca-file": Role.BUNDLE, "ca-verify-file": Role.BUNDLE, "crl-file": Role.OTHER}
_OTHERS = {"crt-list": Role.OTHER, "ca-sign-file": Role.OTHER, "tls-ticket-keys": Role.OTHER}
_OF_BIND = {**_CERTIFICATE, **_AUTHORITIES, **_OTHERS}
_OF_SERVER = {**_CERTIFICATE, **_AUTHORITIES}
_SERVERS = frozenset({"server", "default-server", "server-template"})
_DROPPED = frozenset({"daemon", "master-worker", "mworker-max-reloads", "pidfile"})
_PLAIN = re.compile(r"[\w./@:+-]+", re.ASCII)
OWN_LIST = "@agent"
"""A `crt-list` that the agent writes: every certificate that a comment names the key of."""
_NOTE = re.compile(r"^[ \t]*# agent: key (.*)$", re.MULTILINE)
_A_PAIR = 2
_UNVERIFIED = frozenset({"accept-proxy", "accept-netscaler-cip", "namespace", "strict-sni"})  # to a plain TLS client
_PORTS = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_PORTS = 256  # of one range that are verified
BUNDLES = (".dsa", ".ecdsa", ".rsa")
KEY = ".key"
COMPANIONS = (KEY, ".ocsp", ".sctl", ".issuer")
_EXTRA = frozenset({*(suffix.removeprefix(".") for suffix in COMPANIONS), "bundle"})


@dataclass(frozen=True, slots=True)
class Named:
    """A TLS file that a line names. `word` is its place, `path` absolute. `serves`: clients see the certificate."""

    keyword: str
    role: Role
    word: Word
    path: str
    line: int
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """A TLS listener: where it listens and the certificates that it names first."""

    places: tuple[ListenAddress, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """A part of the text that the copy replaces by other words."""

    start: int
    end: int
    text: str = ""


@dataclass(slots=True)
class Document:
    """What the agent has to know of a configuration.

    `extra`: the kinds of files that HAProxy looks for beside a certificate, and `bundle` (`ssl-load-extra-files`).
    `removes_extension`: it replaces `.crt` by their suffix (`ssl-load-extra-del-ext`). `bases`: the directories that
    relative paths in later lines and in lists start from, empty for none. `keys`: the private key of a certificate, by
    path, from comments of the form `# agent: key CERTIFICATE KEY`.
    """

    files: list[Named] = field(default_factory=list)
    binds: list[Bind] = field(default_factory=list)
    consoles: set[str] = field(default_factory=set)
    replaced: list[Replaced] = field(default_factory=list)
    extra: frozenset[str] = _EXTRA
    removes_extension: bool = False
    bases: dict[str, str] = field(default_factory=lambda: {"crt-base": "", "ca-base": ""})
    keys: dict[str, str] = field(default_factory=dict)

    def companion(self, path: str, suffix: str) -> str | None:
        """Return the path at which HAProxy looks for a file that belongs to a certificate; None if it does not look."""
        if suffix.removeprefix(".") not in self.extra:
            return None
        return f"{path.removesuffix('.crt') if self.removes_extension else path}{suffix}"


def parse(text: str, name: str, directory: str, environment: Mapping[str, str]) -> Document:
    """Parse a configuration. Raises `BadInput` naming the file, the line and the next step.

    `name` is its path, `directory` the one that relative paths start from, `environment` the process's variables.
    """
    if "\0" in text:
        message = f"cannot use {name}: it contains a null byte; write it as text"
        raise BadInput(message)
    document = _Parser(name, directory).parse(lines(text, name, environment, SECTIONS))
    notes = "\n".join(_NOTE.findall(text))
    paths = (each.values for each in lines(notes, name, environment) if len(each.values) == _A_PAIR)
    document.keys = {normpath(join(directory, chain)): normpath(join(directory, key)) for chain, key in paths}
    return document


class _Parser:
    def __init__(self, name: str, directory: str) -> None:
        self._name = name
        self._directory = directory
        self._document = Document()
        self._sections: dict[str, Callable[[Line], None]] = {
            "global": self._in_global,
            "frontend": self._in_proxy,
            "listen": self._in_proxy,
            "backend": self._in_proxy,
            "defaults": self._in_proxy,
            "http-errors": self._error_file,
        }

    def parse(self, found: Iterator[Line]) -> Document:
        read: Callable[[Line], None] | None = None
        for line in found:
            first = line.values[0]
            if first in SECTIONS:
                self._begin(first, line)
                read = self._sections.get(first)
            elif read is not None:
                read(line)
        return self._document

    def _begin(self, section: str, line: Line) -> None:
        if section == "peers":
            raise self._refused(
                line, "both epochs would be the same local peer; remove the section, or keep stick tables without peers"
            )
        if section == "program":
            raise self._refused(line, "programs need HAProxy's own master; start them as services of their own")
        if section == "crt-store":
            raise self._refused(line, "the agent does not know crt-store; name the files at bind, or in a crt-list")

    def _refused(self, line: Line, why: str) -> BadInput:
        return BadInput(f"cannot use {self._name}: line {line.number}, {line.values[0]}: {why}")

    # Sections

    def _in_global(self, line: Line) -> None:
        match line.values:
            case ("crt-base" | "ca-base" as keyword, base, *_):
                self._document.bases[keyword] = base
            case ("ssl-load-extra-del-ext", *_):
                self._document.removes_extension = True
            case ("ssl-load-extra-files", *kinds):
                self._document.extra = _EXTRA if "all" in kinds else _EXTRA.intersection(kinds)
            case ("default-path", origin, *rest):
                self._set_directory(line, origin, *rest[:1])
            case ("stats", "socket", address, *_):
                self._document.consoles.add(address)
            case (keyword, *_) if keyword in _DROPPED:
                self._drop(line)
            case ("ssl-dh-param-file", path, *_):
                self._file(line, 1, "ssl-dh-param-file", Role.OTHER, path)
            case _:
                pass

    def _set_directory(self, line: Line, origin: str, path: str = "") -> None:
        """Follow `default-path`; in the copy, which is no file of that directory, name the directory itself."""
        beside = dirname(join(self._directory, self._name))
        match origin:
            case "config":
                self._directory = beside
            case "parent":
                self._directory = normpath(join(beside, ".."))
            case "origin":
                self._directory = normpath(join(self._directory, path))
            case _:
                return
        if origin != "origin":
            word = line.words[1]
            self._document.replaced.append(Replaced(word.start, word.end, f"origin {quoted(self._directory)}"))

    def _drop(self, line: Line) -> None:
        first, last = line.words[0], line.words[-1]
        self._document.replaced.append(Replaced(first.start, last.end, f"# {line.values[0]}: the agent does it"))

    def _in_proxy(self, line: Line) -> None:
        if line.values[0] == "bind" and len(line.words) > 1:
            self._bind(line)
        elif line.values[0] in _SERVERS:
            self._files(line, 1 if line.values[0] == "default-server" else 2, _OF_SERVER, serves=False)
        else:
            self._error_file(line)

    def _error_file(self, line: Line) -> None:
        match line.values:
            case ("errorfile", _, path, *_) if not path.startswith("/dev/"):
                self._file(line, 2, "errorfile", Role.OTHER, path)
            case _:
                pass

    def _bind(self, line: Line) -> None:
        if any(address.startswith(("quic4@", "quic6@")) for address in line.values[1].split(",")):
            raise self._refused(line, "the agent hands over no QUIC listener; remove it")
        named = self._files(line, 2, _OF_BIND, serves=True)
        if "ssl" in line.values and _UNVERIFIED.isdisjoint(line.values) and named:
            places = tuple(_places(line.values[1]))
            self._document.binds.append(Bind(places, line.number))

    def _files(self, line: Line, start: int, keywords: Mapping[str, Role], *, serves: bool) -> list[Named]:
        named: list[Named] = []
        position = start
        while position + 1 < len(line.words):
            keyword = line.values[position]
            role = keywords.get(keyword)
            if role is None:
                position += 2 if keyword in {"name", "id"} else 1
                continue
            path = line.values[position + 1]
            if path == OWN_LIST and keyword == "crt-list":
                named.append(self._own_list(line, position + 1))
            elif not path.startswith("@"):
                named.append(self._file(line, position + 1, keyword, role, path, serves=serves))
            position += 2
        return named

    def _own_list(self, line: Line, position: int) -> Named:
        named = Named("crt-list", Role.OTHER, line.words[position], OWN_LIST, line.number, serves=True)
        self._document.files.append(named)
        return named

    def _file(self, line: Line, position: int, keyword: str, role: Role, path: str, *, serves: bool = False) -> Named:
        if line.words[position].is_shared:
            raise self._refused(line, f"a variable holds a list with {path}; write each path as a word of its own")
        base = self._document.bases["crt-base" if keyword in {"crt", "crt-list"} else "ca-base"]
        if not isabs(path) and base and keyword in {"crt", *_AUTHORITIES}:
            path = join(base, path)
        named = Named(keyword, role, line.words[position], normpath(join(self._directory, path)), line.number, serves)
        self._document.files.append(named)
        return named


def quoted(text: str) -> str:
    """Return a text as one word; quotes only where they are needed."""
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "'\\''") + "'"


def _places(addresses: str) -> Iterator[ListenAddress]:
    """Yield the TCP addresses of a bind line that can be connected to; others cannot be verified."""
    for each in addresses.split(","):
        address = each.removeprefix("ipv4@").removeprefix("ipv6@")
        host, colon, ports = address.rpartition(":")
        found = _PORTS.fullmatch(ports)
        if not colon or found is None or "@" in address or address.startswith("/"):
            continue
        first, last = int(found[1]), int(found[2] or found[1])
        host = host.strip("[]")
        wild = "::" if each.startswith("ipv6@") else "0.0.0.0"  # noqa: S104  # compared, not bound
        try:
            literal = wild if host in {"", "*"} else spelled(host)
        except ValueError:
            continue  # a host name: HAProxy resolves it
        for port in range(first, min(last, first + _MOST_PORTS) + 1):
            yield ListenAddress.at("tcp", literal, str(port), "")
