"""Controls a control plane: start, kill, changes while it runs, and the events it recorded."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.certificates import Mint, authority
from tests.system.eventually import eventually
from tests.system.plane.behaviour import CLUSTERS, LISTENERS, SECRETS, Behaviour, Json
from tests.system.room import Process, Room

HOST = "127.0.0.1"

Event = dict[str, Any]


@dataclass
class ControlPlane:
    """A server in the sandbox; its port, resources and record persist over restarts.

    With `mutual` it has a certificate of the tests' authority and requires one of its clients. Changes while the server
    is down take effect at its next start.
    """

    room: Room
    directory: Path
    mutual: bool = True
    behaviour: Behaviour = field(default_factory=Behaviour)
    process: Process | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.port = self.room.port()
        self._seen = self.directory / "seen.jsonl"
        settings: dict[str, object] = {"port": self.port}
        if self.mutual:
            files = self._identity()
            settings.update({name: str(path) for name, path in files.items()})
        (self.directory / "server.json").write_text(json.dumps(settings), encoding="utf-8")

    def listen_at(self, port: int, host: str = HOST) -> None:
        """Listen at another port, from the next start on."""
        path = self.directory / "server.json"
        settings = {**json.loads(path.read_text(encoding="utf-8")), "port": port, "host": host}
        path.write_text(json.dumps(settings), encoding="utf-8")
        self.port = port

    def identify_as(self, name: str) -> None:
        """Have a certificate of this name, from the next start on."""
        leaf = Mint().leaf(name)
        (self.directory / "chain.pem").write_bytes(leaf.chain_pem)
        (self.directory / "key.pem").write_bytes(leaf.key_pem)

    def _identity(self) -> dict[str, Path]:
        leaf = Mint().leaf("plane.test", HOST)
        contents = {"chain": leaf.chain_pem, "key": leaf.key_pem, "trusted": authority().pem}
        files = {name: self.directory / f"{name}.pem" for name in contents}
        for name, data in contents.items():
            files[name].write_bytes(data)
        return files

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self.process is not None, "the control plane runs"
        return self.process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._write()
        argv = [sys.executable, "-m", "tests.system.plane.server", str(self.directory)]
        self.process = self.room.spawn_bare(argv, log=self.directory / "server.log")
        self._await_effect()

    def kill(self) -> None:
        """Kill the server: connections are reset, new ones refused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None

    def change(self, **faults: object) -> None:
        """Change fields of the behaviour, together with resources changed before; wait until in effect."""
        for name, value in faults.items():
            assert name in vars(self.behaviour), f"no such field: {name}"
            setattr(self.behaviour, name, value)
        self._write()
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)
            self._await_effect()

    def _write(self) -> None:
        self.behaviour.number += 1
        self.behaviour.write(self.directory / "behaviour.json")

    def _await_effect(self) -> None:
        def in_effect() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the control plane ended: {self._log()}"
            return any(one["number"] == self.behaviour.number for one in self.seen("behaviour"))

        eventually(in_effect, what="the control plane takes its behaviour")

    def _log(self) -> str:
        return (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def listeners(self, *trees: Json) -> None:
        """Set the listeners; `change` brings them into effect."""
        self.behaviour.resources[LISTENERS] = {tree["name"]: tree for tree in trees}

    def clusters(self, *trees: Json) -> None:
        """Set the clusters; `change` brings them into effect."""
        self.behaviour.resources[CLUSTERS] = {tree["name"]: tree for tree in trees}

    def secret(self, name: str, chain: bytes, key: bytes) -> None:
        """Set a secret with a certificate and its key; `change` brings it into effect."""
        pair = {"certificate_chain": chain, "private_key": key}
        sources = {part: {"inline_string": data.decode("ascii")} for part, data in pair.items()}
        self.behaviour.resources[SECRETS][name] = {"name": name, "tls_certificate": sources}

    def seen(self, event: str = "", **wanted: object) -> list[Event]:
        """List the server's events, oldest first: those of this name with these fields.

        `opened` and `closed` (a stream), `subscribed`, `sent`, `ack`, `nack`, `behaviour`: see streams.py.
        """
        lines = self._seen.read_text(encoding="utf-8").splitlines() if self._seen.exists() else []
        events: list[Event] = [json.loads(line) for line in lines]
        if event:
            events = [one for one in events if one["event"] == event]
        return [one for one in events if all(one.get(name) == value for name, value in wanted.items())]

    def client_serials(self) -> list[int]:
        """List the serial numbers of the client certificates of streams, oldest first."""
        return [int(one["serial"], 16) for one in self.seen("opened") if one["serial"]]


@contextmanager
def control_plane(room: Room, name: str = "plane", *, mutual: bool = True) -> Iterator[ControlPlane]:
    """Yield a control plane that is not started; it is killed at the end of the block."""
    plane = ControlPlane(room, room.directory / name, mutual=mutual)
    try:
        yield plane
    finally:
        plane.kill()
