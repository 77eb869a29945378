"""The admin interface of a real Envoy, for comparison with ours."""

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.proxies.envoy.envoys import ENVOY
from tests.system.eventually import PATIENCE, eventually

Json = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A response of an admin interface."""

    status: int
    content_type: str
    body: str

    @property
    def tree(self) -> Any:  # noqa: ANN401  # any JSON value
        """Its body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class EnvoyConsole:
    """An admin interface at a Unix socket."""

    path: Path

    def ask(self, target: str, method: str = "GET") -> Page:
        """Send one request."""
        connection = http.client.HTTPConnection("console", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(str(self.path))
            connection.request(method, target)
            with connection.getresponse() as response:
                body = response.read().decode()
                return Page(response.status, response.headers["content-type"], body)
        finally:
            connection.close()

    def is_there(self) -> bool:
        """Return whether it answers."""
        return self.ask("/server_info").status == 200


@contextmanager
def envoy_console(directory: Path, bootstrap: Json, *arguments: str) -> Iterator[EnvoyConsole]:
    """Run Envoy with this bootstrap and without hot restart, its admin interface on a Unix socket in `directory`."""
    assert ENVOY is not None
    path = directory / "admin"
    tree = {**bootstrap, "admin": {"address": {"pipe": {"path": str(path)}}}}
    (directory / "bootstrap.json").write_text(json.dumps(tree))
    command = [str(ENVOY), "-c", str(directory / "bootstrap.json"), "--disable-hot-restart", "--concurrency", "1"]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*command, "-l", "warning", *arguments], stdout=log, stderr=log)
    try:
        console = EnvoyConsole(path)
        eventually(console.is_there)
        yield console
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)
