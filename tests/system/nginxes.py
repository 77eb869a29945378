"""NGINX under the agent: its configuration in the tests, and the fixture that runs it."""

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import first_answer
from tests.system.bootstrap import Secured, replace
from tests.system.eventually import PATIENCE
from tests.system.layouts import CHAIN, IN_PLACE, KEY
from tests.system.room import Room, stopped
from tests.system.wire import Target

MODULES = Path("/usr/lib/nginx/modules")


def nginx_binary() -> Path | None:
    """Return the installed NGINX, None without one."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


@dataclass
class NginxConfiguration:
    """The configuration of one NGINX, by the properties that tests vary.

    `listening` is added to both `listen` lines, `top` and `more` are text of the main and of the http block.
    """

    tls_port: int
    plain_port: int
    secured: Sequence[Secured]
    address: str = "127.0.0.1"
    workers: int = 2
    body: str = "ok\\n"
    listening: str = ""
    top: str = ""
    more: str = ""
    at: Path = field(default_factory=Path)
    """The directory of its temporary files and its pid."""

    def text(self) -> str:
        """Return the configuration."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"worker_processes {self.workers};"
        yield f"pid {self.at}/nginx.pid;"
        yield "error_log stderr warn;"
        yield self.top
        yield "events { worker_connections 4000; }"
        yield "http {"
        yield "    access_log off;"
        yield "    keepalive_requests 1000000;"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            yield f"    {kind}_temp_path {self.at}/{kind};"
        for number, one in enumerate(self.secured):
            yield "    server {"
            yield f"        listen {self.address}:{self.tls_port} ssl {'' if number else self.listening};"
            yield f'        server_name "{one.server_name}";'
            yield f"        ssl_certificate {one.chain};"
            yield f"        ssl_certificate_key {one.key};"
            yield f'        location / {{ return 200 "{self.body}"; }}'
            yield "    }"
        yield "    server {"
        yield f"        listen {self.address}:{self.plain_port} {self.listening};"
        yield f'        location / {{ return 200 "{self.body}"; }}'
        yield "    }"
        yield self.more
        yield "}"

    def write(self, path: Path) -> None:
        """Write the configuration to `path` by one rename."""
        replace(path, self.text())


class NginxFixture(AgentFixture):
    """An agent fixture that runs NGINX."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config = self.directory / "nginx.conf"
        secured = [Secured(self.certs / CHAIN, self.certs / KEY)]
        self.nginx = NginxConfiguration(self.tls.port, self.plain.port, secured, at=self.directory)

    def prepare(self) -> None:
        """Write the configuration and the first certificate."""
        self.nginx.write(self.config)
        self.layout.first(self.certs, self.mint.leaf())

    def configure(self) -> None:
        """Write the configuration anew."""
        self.nginx.write(self.config)

    def bare_start(self, times: int = 5) -> float:
        """Return exec → first response of a bare NGINX with this configuration on ports of its own, in seconds."""
        config, certs = self.directory / "bare.conf", self.directory / "bare"
        if not certs.exists():
            IN_PLACE.first(certs, self.mint.spare())
        secured = [Secured(certs / CHAIN, certs / KEY)]
        NginxConfiguration(self.twin.port, self.twin.port + 1, secured, at=certs).write(config)
        return sorted(_start(self.room, self.binary, config, self.twin) for _ in range(times))[times // 2]

    def family(self) -> list[int]:
        """Return the pids of the serving master and of its workers."""
        pid = self.serving_pid()
        return [pid, *children(pid)]


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@contextmanager
def all_stopped(pids: Sequence[int]) -> Iterator[None]:
    """Stop several processes (SIGSTOP) during the block."""
    with ExitStack() as stack:
        for pid in pids:
            stack.enter_context(stopped(pid))
        yield


@contextmanager
def bare_nginx(room: Room, binary: Path, config: Path) -> Iterator[int]:
    """Run an NGINX alone; yield the pid of its master, which is told to exit at the end of the block."""
    process = room.spawn_bare(
        [binary, "-c", config, "-e", "stderr", "-g", "daemon off;"], log=config.with_suffix(".log")
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


def _start(room: Room, binary: Path, config: Path, target: Target) -> float:
    began = time.monotonic()
    with bare_nginx(room, binary, config):
        return first_answer(target) - began
