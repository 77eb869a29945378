"""The proxies under test, run alone: Envoy as the reference, and the built-in sidecar with the same file."""

import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.bare import envoy_binary
from tests.system.bootstrap import Json, address
from tests.system.eventually import PATIENCE, eventually
from tests.system.room import Process, Room

KINDS = (pytest.param("envoy", marks=pytest.mark.long), "sidecar")  # Envoy's behaviour changes only with its version


@dataclass(frozen=True)
class Proxy:
    """A program with Envoy's command line and configuration."""

    name: str
    binary: Path
    arguments: tuple[str, ...] = ("--concurrency", "1", "-l", "warning", "--disable-hot-restart")


def sidecar_binary() -> Path | None:
    """Return the sidecar under test: `AGENT_SIDECAR`, the one beside this interpreter, or one on the path."""
    beside = Path(sys.executable).with_name("sidecar")
    found = shutil.which(os.environ.get("AGENT_SIDECAR") or str(beside)) or shutil.which("sidecar")
    return Path(found) if found else None


def found(kind: str) -> Proxy | None:
    """Return the proxy of a kind, None if it is not installed."""
    binary = envoy_binary() if kind == "envoy" else sidecar_binary()
    return Proxy(kind, binary) if binary else None


def needed(kind: str) -> Proxy:
    """Return the proxy of a kind; the test is skipped if it is not installed."""
    proxy = found(kind)
    if proxy is None:
        pytest.skip(f"no {kind}: install it, or name one by AGENT_{kind.upper()}")
    return proxy


@dataclass(frozen=True)
class Reply:
    """A response of the admin interface."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass(frozen=True)
class Console:
    """The admin interface of a proxy in the test's sandbox."""

    port: int

    def ask(self, path: str, method: str = "GET") -> Reply:
        """Make one request on a new connection; OSError if there is no admin interface."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            with connection.getresponse() as response:
                headers = {name.lower(): value for name, value in response.getheaders()}
                return Reply(response.status, headers, response.read())
        finally:
            connection.close()

    def post(self, path: str) -> Reply:
        """Send a POST request."""
        return self.ask(path, "POST")

    def ready(self) -> bool:
        """Return whether the proxy serves."""
        return self.ask("/ready").status == 200

    def numbers(self, prefix: str = "") -> dict[str, int]:
        """Read counters and gauges whose names begin with `prefix`, which is removed from the names."""
        lines = (line.rpartition(": ") for line in self.ask("/stats").text.splitlines())
        named = ((name, value) for name, _, value in lines if name.startswith(prefix))
        return {name.removeprefix(prefix): int(value) for name, value in named if value.isdigit()}


@dataclass(frozen=True)
class Running:
    """A proxy that runs alone and serves."""

    proxy: Proxy
    process: Process
    console: Console
    log: Path

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid


@contextmanager
def running(
    room: Room, proxy: Proxy, tree: Json, more: Sequence[str] = (), console: Console | None = None
) -> Iterator[Running]:
    """Run a proxy with a bootstrap and an added admin interface; yield it when it serves, and kill it at the end.

    Two in sequence with the same `console` differ only in the program.
    """
    console = console or Console(room.port())
    config = room.directory / "proxy.json"
    config.write_text(json.dumps({**tree, "admin": {"address": address("127.0.0.1", console.port)}}), encoding="utf-8")
    log = room.directory / f"{proxy.name}.log"
    process = room.spawn([proxy.binary, "-c", config, *proxy.arguments, *more], log=log)
    try:
        eventually(lambda: _serves(process, console, log), what=f"{proxy.name} serves")
        yield Running(proxy, process, console, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=PATIENCE)


def _serves(process: Process, console: Console, log: Path) -> bool:
    if process.poll() is not None:
        pytest.fail(f"exit status {process.returncode}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    return console.ready()
