"""An epoch that takes pushes, of which this process is the proxy: its descriptors are our own."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.epochs import State
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.inputs.revisions import LoadedRevision
from agent.processes.manifest import Manifest
from agent.processes.push_target import PushTarget
from agent.processes.survivor import Pushed, Survivor
from tests import pki
from tests.processes.fakes import PUSHING, Revisions

AUTHORITY = pki.Authority.create("ca")
CHAIN, KEY, OTHER = "/c/tls.crt", "/c/tls.key", "/c/ticket"
TLS = {
    "common_tls_context": {
        "tls_certificates": [{"certificate_chain": {"filename": CHAIN}, "private_key": {"filename": KEY}}],
        "session_ticket_keys": {"keys": [{"filename": OTHER}]},
    }
}
LISTENER = {
    "name": "edge",
    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8443}},
    "filter_chains": [{"transport_socket": {"name": "tls", "typed_config": TLS}}],
}
TEXT = json.dumps({"static_resources": {"listeners": [LISTENER]}})
PLACES = frozenset({ListenAddress("tcp://127.0.0.1:8443")})


def pair() -> dict[str, bytes]:
    """New contents of the pair."""
    leaf = AUTHORITY.issue(["a.test"])
    return {CHAIN: leaf.chain_pem, KEY: leaf.key_pem}


class Epoch:
    """The target of one epoch, and what the next agent finds of it."""

    def __init__(self, revisions: Revisions, loaded: LoadedRevision) -> None:
        self.revisions, self.loaded = revisions, loaded
        made = PushTarget.make(loaded)
        assert made is not None
        self.target = made
        self.main, _ = made.fill(loaded, Path("/run/1"), 1)
        self.memory = Memfds()
        manifest = Manifest.of(loaded, made.slots)
        self.manifest = Carried.in_memory(self.memory.hold("epoch 1", manifest.to_bytes()))

    def renewed(self) -> LoadedRevision:
        """Load a revision with a new pair."""
        return self.revisions.load(TEXT, pair() | {OTHER: b"ticket"})

    def push(self) -> LoadedRevision:
        """Let a new pair be pushed, and commit it."""
        loaded = self.renewed()
        self.target.write(loaded, self.loaded)
        self.target.commit(loaded)
        self.loaded = loaded
        return loaded

    def found(self, pushed: Pushed | None = None, *, is_torn: bool = False) -> Survivor:
        """Return it as the next agent finds it; `pushed`: another record of the pushes."""
        record = pushed or self.target.pushed(self.loaded, is_torn=is_torn)
        return Survivor(1, State.SERVING, os.getpid(), 5, "nonce", 7, self.manifest, PLACES, record)

    def close(self) -> None:
        """Close its descriptors."""
        self.target.slots.close()
        self.memory.close()


@contextmanager
def pushed_into() -> Iterator[Epoch]:
    """Make an epoch that takes pushes, with one pair and a file that cannot be pushed."""
    revisions = Revisions(PUSHING)
    made = Epoch(revisions, revisions.load(TEXT, pair() | {OTHER: b"ticket"}))
    try:
        yield made
    finally:
        made.close()
        revisions.close()


def read(descriptor: int) -> bytes:
    """Read what the process reads that opens a descriptor by its path."""
    with open(f"/dev/fd/{descriptor}", "rb") as file:  # noqa: PTH123  # as the proxy does
        return file.read()
