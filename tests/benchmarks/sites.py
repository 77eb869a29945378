"""Agents beside many certificates, listeners or files, and a bare Envoy with the same configuration."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from agent.certificates.references import Reference, Role
from agent.proxies.envoy.default_bootstrap import bootstrap
from tests.pki import Leaf
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import bare_proxy, serial_served
from tests.system.bootstrap import Bootstrap, Json, Secured, listener, tls_chain
from tests.system.certificates import Pair, serial
from tests.system.eventually import PATIENCE
from tests.system.wire import Target

_STEP = 0.002  # seconds between two handshakes
_ROW = 250  # addresses used in each /24


@dataclass(frozen=True)
class Site:
    """The size of a configuration.

    With one listener, it has all `pairs`; else each of the `listeners` has its own. `others`: further files in a
    watched directory. `is_small`: the agent generates the configuration from the directory.
    """

    name: str
    pairs: int = 1
    listeners: int = 1
    others: int = 0
    is_small: bool = False

    def configuration(self, certs: Path, port: int, forward: int) -> str:
        """Return the configuration with TLS listeners at this port."""
        pairs = [files(certs, number) for number in range(self.pairs)]
        if not self.is_small:
            return yaml.dump(self._document([Secured(*pair) for pair in pairs], port, forward), Dumper=yaml.CSafeDumper)
        references = [
            Reference(str(path), role, str(pair[0]))
            for pair in pairs
            for path, role in zip(pair, (Role.CHAIN, Role.KEY), strict=True)
        ]
        return bootstrap((HOST, port), (HOST, forward), references)

    def _document(self, secured: list[Secured], port: int, plain: int) -> Json:
        tree = Bootstrap(port, plain, secured[:1]).tree()
        listeners: list[Json] = tree["static_resources"]["listeners"]
        if self.listeners == 1:
            _common(listeners[0])["tls_certificates"] = [
                _common(listener("", "", 0, [tls_chain(each, "")]))["tls_certificates"][0] for each in secured
            ]
        for number, each in enumerate(secured[1:] if self.listeners > 1 else []):
            host = f"127.0.{1 + number // _ROW}.{1 + number % _ROW}"
            listeners.append(listener(f"tls{number}", host, port, [tls_chain(each, "ok\n")]))
        return tree


def _common(made: Json) -> Json:
    """Return the TLS settings of a listener's first chain."""
    common: Json = made["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    return common


def files(directory: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of a pair."""
    return directory / f"p{number:05}.crt", directory / f"p{number:05}.key"


def write(directory: Path, number: int, pair: Pair) -> float:
    """Write a pair by two renames; return the time of its last byte (monotonic clock)."""
    for path, data in zip(files(directory, number), (pair.chain_pem, pair.key_pem), strict=True):
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(data)
        beside.replace(path)
    return time.monotonic()


def shown(target: Target, serial: int) -> float:
    """Shake hands until this serial is served; return that time (monotonic clock)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if serial_served(target) == serial:
                return time.monotonic()
        except ConnectionError:
            pass
        time.sleep(_STEP)
    raise AssertionError(f"{target} did not show {serial:x} within {PATIENCE:g} s")


@dataclass
class SizedAgent(AgentFixture):
    """An agent for a site. Clients see its first pair."""

    site: Site = field(default_factory=lambda: Site("one pair"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_small = self.site.is_small
        self.others = self.directory / "others"
        if self.site.others:
            self.more_flags += ["--watch", str(self.others)]

    @cached_property
    def rest(self) -> list[Leaf]:
        """All pairs but the first, which stay."""
        return [self.mint.issuer.issue([f"p{number}.test"]) for number in range(1, self.site.pairs)]

    @cached_property
    def first_bare(self) -> Leaf:
        """The certificate that a bare Envoy shows."""
        return self.mint.spare()

    def prepare(self) -> None:
        """Write the configuration and all files."""
        self.config.write_text(self.site.configuration(self.certs, self.tls.port, self.plain.port), encoding="utf-8")
        self._fill(self.certs, self.mint.leaf())
        self.others.mkdir()
        for number in range(self.site.others):
            (self.others / f"{number}.txt").write_text(f"{number}\n" * 100, encoding="ascii")

    def _fill(self, directory: Path, first: Pair) -> None:
        directory.mkdir()
        for number, pair in enumerate([first, *self.rest]):
            write(directory, number, pair)

    def first_start(self) -> float:
        """Start the agent; return the seconds until clients see a certificate."""
        began = time.monotonic()
        self.launch()
        span = shown(self.tls, serial(self.mint.newest)) - began
        self.ready()
        return span

    def rotate_one(self) -> float:
        """Replace the first pair; return last byte written → first handshake with it, in seconds."""
        leaf = self.mint.leaf()
        written = write(self.certs, 0, leaf)
        return shown(self.tls, serial(leaf)) - written

    def start_bare(self) -> float:
        """Start a bare Envoy with files and a configuration like these; return exec → first handshake, in seconds."""
        certs, config = self.directory / "bare", self.directory / "bare.yaml"
        if not certs.exists():
            self._fill(certs, self.first_bare)
            config.write_text(self.site.configuration(certs, self.twin.port, self.twin.port + 1), encoding="utf-8")
        began = time.monotonic()
        with bare_proxy(self.room, self.binary, config, self.proxy_args):
            return shown(self.twin, serial(self.first_bare)) - began
