"""The operator's NGINX configuration with its includes, and its private copy in one text."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from itertools import zip_longest
from posixpath import join

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress, spelled
from agent.proxies.interface import Delivery, StaticListener, TlsListener
from agent.proxies.nginx.copy import Copy, Replaced
from agent.proxies.nginx.directives import Directive, Word, quoted
from agent.proxies.nginx.sources import Found, Sources, directory_of
from agent.proxies.standalone import StandaloneConfiguration

READY = "ready"
"""The Unix socket in the epoch's directory at which NGINX answers the agent."""

_READY_SERVER = """
    server {{
        listen {address};
        access_log off;
        location = /stub_status {{ satisfy any; allow all; auth_basic off; stub_status; }}
        location / {{ return 200; }}
    }}
"""
_PREFIXES = ("", "proxy_", "grpc_", "uwsgi_")
_ROLES = {
    "ssl_certificate": Role.CHAIN,
    "ssl_certificate_key": Role.KEY,
    "ssl_client_certificate": Role.BUNDLE,
    "ssl_trusted_certificate": Role.BUNDLE,
    "ssl_crl": Role.OTHER,
    "ssl_dhparam": Role.OTHER,
    "ssl_stapling_file": Role.OTHER,
    "ssl_session_ticket_key": Role.OTHER,
    "ssl_password_file": Role.OTHER,
}
_FILES = {prefix + name: (prefix, role) for prefix in _PREFIXES for name, role in _ROLES.items()}
_COMMANDS = {
    "certificate": Role.CHAIN,
    "privatekey": Role.KEY,
    "chaincafile": Role.OTHER,
    "verifycafile": Role.OTHER,
    "requestcafile": Role.OTHER,
    "dhparameters": Role.OTHER,
    "serverinfofile": Role.OTHER,
}
"""The commands of `ssl_conf_command` whose value is a file (SSL_CONF_cmd(3)); their case does not count."""

_RELATIVE = {
    "auth_basic_user_file": 1,
    "auth_jwt_key_file": 1,
    "js_import": -1,
    "js_include": 1,
    "js_path": 1,
    "modsecurity_rules_file": 1,
}
"""Other directives, and which of their words is a path that starts from the configuration's directory if it is
relative: the copy is in another one.
"""
_DROPPED = frozenset({"daemon", "pid"})
_SERVERS = {("http",), ("stream",), ("mail",)}
_VARIABLE = re.compile(r"\$(?:\{\w+\}|\w+)")
_NO_PATH = ("data:", "engine:", "store:")


@dataclass(frozen=True, slots=True)
class Named:
    """A TLS file that a directive names. `path` is absolute, and may have variables."""

    found: Found
    word: Word
    role: Role
    prefix: str
    path: str

    @property
    def has_variable(self) -> bool:
        """Whether a worker opens it anew at each handshake, by another name."""
        return "$" in self.path

    @property
    def pattern(self) -> str:
        """The wildcard for all files that its variables may stand for."""
        return "*".join(map(escape, _VARIABLE.split(self.path)))

    @property
    def root(self) -> str:
        """The directory before the first variable."""
        return _VARIABLE.split(self.path)[0].rpartition("/")[0]


class Configuration(StandaloneConfiguration):
    """A parsed configuration. Raises `BadInput` naming the file, the line and the next step.

    `resources` has the included files, and the names that wildcards match, see `unread`. `working` is the process's
    working directory.
    """

    def __init__(self, text: str, name: str, working: str, resources: Mapping[str, bytes]) -> None:
        super().__init__(name)
        self._resources = resources
        self.sources = Sources(text, name, directory_of(name, working), resources)
        self.found = list(self.sources.walk())
        self._refuse()
        self.named = _loaded(list(self._named()))
        self.unread = [*self.sources.unread, *self._patterns()]
        self.references = list(dict.fromkeys(self._references()))
        found = list(self._listeners())
        self.listeners = list(dict.fromkeys(plain for plain, _ in found))
        self.tls_listeners = list(dict.fromkeys(secure for _, secure in found if secure is not None))
        self._copies: dict[frozenset[str], Copies] = {}

    def _refuse(self) -> None:
        for each in self.found:
            line = f"line {each.directive.line}, {each.directive.name}"
            if each.directive.name == "master_process" and each.directive.values == ("off",):
                why = "without a master there is nobody who drains; remove it"
                message = f"cannot use {each.source.name}: {line}: {why}"
                raise BadInput(message)
            if each.directive.name == "listen" and {"quic", "http3"} & set(each.directive.values):
                message = f"cannot use {each.source.name}: {line}: the agent hands over no QUIC listener; remove it"
                raise BadInput(message)

    # What it names

    def _named(self) -> Iterator[Named]:
        for each in self.found:
            named = _named_file(each.directive)
            if named is None:
                continue
            word, role, prefix = named
            if word.value and not word.value.startswith((*_NO_PATH, "$")):
                yield Named(each, word, role, prefix, self.sources.absolute(word.value))

    def _patterns(self) -> list[str]:
        wanted = dict.fromkeys(each.pattern for each in self.named if each.has_variable)
        return [each for each in wanted if each not in self._resources]

    def files_of(self, named: Named) -> list[str]:
        """Return the files that a path with variables stands for, or the path itself."""
        if not named.has_variable:
            return [named.path]
        return [each for each in self._resources.get(named.pattern, b"").decode().split("\n") if each]

    def _references(self) -> Iterator[Reference]:
        encrypted = {_where(each) for each in self.named if each.found.directive.name.endswith("ssl_password_file")}
        pairs: defaultdict[tuple[int, str], tuple[list[Named], list[Named]]] = defaultdict(lambda: ([], []))
        for each in self.named:
            if each.role in {Role.CHAIN, Role.KEY} and _where(each) not in encrypted:
                pairs[_where(each)][each.role is Role.KEY].append(each)
            else:
                role = each.role if each.role is Role.BUNDLE else Role.OTHER
                yield from (Reference(path, role, path) for path in self.files_of(each))
        for chains, keys in pairs.values():
            for chain, key in zip_longest(chains, keys):
                yield from self._pair(chain, key)

    def _pair(self, chain: Named | None, key: Named | None) -> Iterator[Reference]:
        """Yield the references of a pair; with variables, of each certificate that has a key of its name."""
        if chain is None or key is None:
            alone = [path for each in (chain, key) if each is not None for path in self.files_of(each)]
            yield from (Reference(path, Role.OTHER, path) for path in alone)
            return
        if not chain.has_variable or not key.has_variable:
            for path in self.files_of(chain):
                yield Reference(path, Role.CHAIN, path)
                yield from (Reference(each, Role.KEY, path) for each in self.files_of(key))
            return
        keys = {_varying(key, path): path for path in self.files_of(key)}
        for path in self.files_of(chain):
            if (own := keys.get(_varying(chain, path))) is not None:
                yield Reference(path, Role.CHAIN, path)
                yield Reference(own, Role.KEY, path)

    # Listeners

    def _listeners(self) -> Iterator[tuple[StaticListener, TlsListener | None]]:
        """Yield each stream address of each server, and what a TLS client sees there, if it is a TLS one."""
        inside: defaultdict[int, list[Directive]] = defaultdict(list)
        for each in self.found:
            if each.parents:
                inside[id(each.parents[-1])].append(each.directive)
        for each in self.found:
            if each.directive.name == "server" and each.context in _SERVERS:
                inner = inside[id(each.directive)]
                names = [name for one in inner if one.name == "server_name" for name in one.values]
                literal = next((name for name in names if _is_literal(name)), None)
                for one in inner:
                    if one.name == "listen" and one.values and "udp" not in one.values:
                        yield from _listener(one.values, literal)

    # Copies

    def copies(self, materialised: Collection[str]) -> "Copies":
        """Return the copies in which these paths are descriptors, made once."""
        key = frozenset(materialised)
        if key not in self._copies:
            self._copies[key] = Copies(self, key)
        return self._copies[key]

    def copy(self, directory: str, path_of: Callable[[Named], str | None]) -> Copy:
        """Return the copy of one epoch. `path_of` returns the path that replaces one; None to keep it."""
        replaced: defaultdict[int, list[Replaced]] = defaultdict(list)
        for each in self.named:
            new = path_of(each) or each.path
            replaced[id(each.found.source)].append(Replaced(each.word.start, each.word.end, quoted(new)))
        for found in self.found:
            source, directive = found.source, found.directive
            if not found.parents and directive.name in _DROPPED:
                text = f"# {directive.name}: the agent does it"
                replaced[id(source)].append(Replaced(directive.start, directive.end, f"{text}\n"))
            if directive.name in _RELATIVE and directive.values:
                word = directive.words[_RELATIVE[directive.name]]
                absolute = self.sources.absolute(word.value)
                if absolute != word.value:
                    replaced[id(source)].append(Replaced(word.start, word.end, quoted(absolute)))
            if not found.parents and directive.name == "http" and directive.closing is not None:
                server = _ready_server(directory)
                replaced[id(source)].append(Replaced(directive.closing, directive.closing, server))
        return Copy(self.sources.main, replaced)

    def located(self, line: int) -> str:
        """Return where a line of the copy comes from, as `file:line`."""
        return self.copy("", lambda _: None).original(line)

    @cached_property
    def has_http(self) -> bool:
        """Whether there is a block in which the agent's own server can be."""
        return any(not each.parents and each.directive.name == "http" for each in self.found)


class Copies:
    """The copies of a configuration for one set of materialised paths."""

    def __init__(self, configuration: Configuration, materialised: frozenset[str]) -> None:
        self._configuration = configuration
        self._materialised = materialised

    def copy(self, directory: str, descriptors: Mapping[str, int]) -> Copy:
        """Return the copy of one epoch."""
        return self._configuration.copy(directory, lambda named: self._path(named, directory, descriptors))

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return the configuration of one epoch; there is no extra document."""
        del number, as_json
        text = self.copy(directory, descriptors).text
        if not self._configuration.has_http:
            text += "\nhttp {" + _ready_server(directory) + "}\n"
        return text, None

    def fill_pushable(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool
    ) -> tuple[str, str | None, Delivery]:
        """Raise AssertionError: NGINX takes no pushes, so no file of it is pushable."""
        raise AssertionError(directory, number, descriptors, as_json)

    def _path(self, named: Named, directory: str, descriptors: Mapping[str, int]) -> str | None:
        if not named.has_variable:
            return f"/dev/fd/{descriptors[named.path]}" if named.path in self._materialised else None
        if not self._view(named, descriptors):
            return None
        return f"{directory}/{self._name(named, descriptors)}{named.path[len(named.root) :]}"

    def _view(self, named: Named, descriptors: Mapping[str, int]) -> dict[str, str]:
        """Return the links that stand for the files of a path with variables, by their paths below its root."""
        used = [path for path in self._configuration.files_of(named) if path in self._materialised]
        return {path[len(named.root) + 1 :]: f"/dev/fd/{descriptors[path]}" for path in used}

    def _name(self, named: Named, descriptors: Mapping[str, int]) -> str:
        content = repr(sorted(self._view(named, descriptors).items()))
        return f"files-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def tree(self, directory: str, descriptors: Mapping[str, int]) -> Mapping[str, str | bytes]:
        """Return directories of links to descriptors, which workers open by names with variables."""
        del directory
        return {
            join(self._name(named, descriptors), path): target
            for named in self._configuration.named
            if named.has_variable
            for path, target in self._view(named, descriptors).items()
        }

    def prepare(self, *, as_json: bool) -> None:
        """Do nothing: a copy is made in a moment."""

    def are_made(self, *, as_json: bool) -> bool:
        """Return True, see `prepare`."""
        del as_json
        return True

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add nothing: included files are part of the copy."""


def _named_file(directive: Directive) -> tuple[Word, Role, str] | None:
    """Return the word that names a TLS file, its role, and what its key or certificate has in common with it."""
    if len(directive.words) < 2:
        return None
    if directive.name in _FILES:
        prefix, role = _FILES[directive.name]
        return directive.words[1], role, prefix
    if directive.name.endswith("ssl_conf_command") and len(directive.words) == 3:
        command = _COMMANDS.get(directive.words[1].value.lower())
        return None if command is None else (directive.words[2], command, directive.name)
    return None


def _loaded(named: list[Named]) -> list[Named]:
    """Return those that NGINX reads: the files of a server without a certificate are not."""
    with_certificate = [_scope(each) for each in named if each.role is Role.CHAIN and not each.prefix]
    above = {scope[:length] for scope in with_certificate for length in range(len(scope) + 1)}
    exact = set(with_certificate)

    def is_loaded(each: Named) -> bool:
        scope = _scope(each)
        return bool(each.prefix) or scope in above or any(scope[:length] in exact for length in range(len(scope)))

    return [each for each in named if is_loaded(each)]


def _scope(named: Named) -> tuple[int, ...]:
    return tuple(map(id, named.found.parents))


def _where(named: Named) -> tuple[int, str]:
    """Return the block that a directive is in, with its prefix: a certificate and its key share both."""
    return (id(named.found.parents[-1]) if named.found.parents else 0, named.prefix)


def _varying(named: Named, path: str) -> str:
    """Return the part of a path that differs between the files of a path with variables."""
    parts = _VARIABLE.split(named.path)
    return path[len(parts[0]) : len(path) - len(parts[-1])]


def _is_literal(name: str) -> bool:
    return bool(name) and name != "_" and not name.startswith(("~", "*", ".", "$")) and not name.endswith("*")


def _ready_server(directory: str) -> str:
    return _READY_SERVER.format(address=quoted(f"unix:{directory}/{READY}"))


def _listener(values: tuple[str, ...], name: str | None) -> Iterator[tuple[StaticListener, TlsListener | None]]:
    place = _place(values[0])
    if place is not None:
        plain = StaticListener(place, reuse_port="reuseport" in values, dual_stack="ipv6only=off" in values)
        yield plain, TlsListener(place, name) if "ssl" in values else None


def _place(address: str) -> ListenAddress | None:
    """Return the address of a `listen` that a client can connect to; None for a host name or a relative path."""
    if address.startswith("unix:"):
        return ListenAddress(f"unix://{address.removeprefix('unix:')}") if address.startswith("unix:/") else None
    host, colon, port = address.rpartition(":")
    if address.isdecimal():
        host, port = "*", address
    elif not colon or not port.isdecimal() or address.endswith("]"):
        host, port = address, "80"
    host = host.strip("[]")
    try:
        literal = "0.0.0.0" if host in {"*", ""} else spelled(host)  # noqa: S104  # compared, not bound
    except ValueError:
        return None
    return ListenAddress.at("tcp", literal, port, "")
