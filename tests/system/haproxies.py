"""HAProxy under the agent: its configuration in the tests, and the fixture that runs it."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import first_answer
from tests.system.bootstrap import Bootstrap, Secured
from tests.system.eventually import PATIENCE
from tests.system.layouts import CHAIN, IN_PLACE
from tests.system.proxies import Proxy
from tests.system.room import Room
from tests.system.wire import Target


def haproxy() -> Proxy | None:
    """Return the installed HAProxy; None if there is none."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin")
    return Proxy("haproxy", Path(found), ()) if found else None


@dataclass
class HAProxyConfiguration(Bootstrap):
    """The configuration of one HAProxy, by the properties that tests vary.

    A key is beside its certificate, with the suffix `.key` instead of `.crt`. `globals` are lines of the global
    section, `binding` is added to the TLS line, and `sections` is text at the end.
    """

    threads: int = 2
    globals: Sequence[str] = ()
    binding: str = ""
    sections: str = ""

    def text(self) -> str:
        """Return the configuration."""
        body = self.body.strip()
        answer = f'    http-request return status 200 content-type text/plain string "{body}\\n"'
        certificates = " ".join(f"crt {one.chain}" for one in self.secured)
        trusted = "".join(f" ca-file {one.trusted} verify optional" for one in self.secured if one.trusted)
        lines = [
            *("global", f"    nbthread {self.threads}", "    maxconn 8000", "    ssl-load-extra-del-ext"),
            *(f"    {line}" for line in self.globals),
            *("defaults", "    mode http", "    maxconn 8000", "    option idle-close-on-response"),
            *("    timeout client 1h", "    timeout connect 5s", "    timeout server 1h"),
            *("frontend tls", f"    bind {self.address}:{self.tls_port} ssl {certificates}{trusted} {self.binding}"),
            answer,
            *("frontend plain", f"    bind {self.address}:{self.plain_port}", answer),
            self.sections,
        ]
        return "\n".join([*lines, ""])


class HAProxyFixture(AgentFixture):
    """An agent fixture that runs HAProxy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config = self.directory / "haproxy.cfg"
        secured = [Secured(self.certs / CHAIN, self.certs / CHAIN)]
        self.bootstrap = self.haproxy = HAProxyConfiguration(self.tls.port, self.plain.port, secured)
        self.more_flags += ["--proxy-kind", "haproxy"]

    def forward(self, port: int, origin: int) -> None:
        """Add a listener that forwards TCP connections to a port of this machine."""
        self.haproxy.sections += (
            f"listen raw{port}\n    mode tcp\n    bind {HOST}:{port}\n    server origin {HOST}:{origin}\n"
        )

    def bare_start(self, times: int = 5) -> float:
        """Return exec → first response of a bare HAProxy with this configuration on ports of its own, in seconds."""
        config, certs = self.directory / "bare.cfg", self.directory / "bare"
        if not certs.exists():
            IN_PLACE.first(certs, self.mint.spare())
        secured = [Secured(certs / CHAIN, certs / CHAIN)]
        HAProxyConfiguration(self.twin.port, self.twin.port + 1, secured).write(config)
        return sorted(_start(self.room, self.binary, config, self.twin) for _ in range(times))[times // 2]


def _start(room: Room, binary: Path, config: Path, target: Target) -> float:
    began = time.monotonic()
    process = room.spawn_bare([binary, "-db", "-f", config], log=room.directory / "bare.log")
    try:
        return first_answer(target) - began
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)
