"""An agent fixture with a control plane: listeners, clusters and the certificate come by xDS, over mTLS.

`--certs` has the client pair of that connection, so a rotation renews the proxy's identity at its control plane.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.cli.agents import agent
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import body_of
from tests.system.bootstrap import Json
from tests.system.certificates import Mint, authority, serial
from tests.system.eventually import eventually, throughout
from tests.system.journal import Entry
from tests.system.layouts import CHAIN, KEY, ROOT
from tests.system.plane.plane import ControlPlane
from tests.system.plane.sources import (
    CLUSTER,
    FromPlane,
    ads,
    aggregated,
    plain_listener,
    secret_listener,
    xds_cluster,
)
from tests.system.state import CANDIDATE, Epoch, State
from tests.system.status_pollers import ask

SECRET = "edge-secret"


@dataclass
class Site:
    """One agent and its control plane. `fetch_timeout`: the `initial_fetch_timeout` of all xDS resources."""

    instance: AgentFixture
    plane: ControlPlane
    delta: bool = False
    fetch_timeout: str = "15s"
    secrets: Mint = field(default_factory=Mint)

    def __post_init__(self) -> None:
        certs = self.instance.certs
        self.instance.bootstrap = FromPlane(self.instance.tls.port, self.instance.plain.port, [])
        self.instance.bootstrap.dynamic = ads(delta=self.delta, timeout=self.fetch_timeout)
        self.instance.bootstrap.clusters = [xds_cluster(self.plane.port, certs / CHAIN, certs / KEY, certs / ROOT)]
        self.listeners()
        self.secret()

    def listeners(self, *more: Json, plain: Json | None = None) -> None:
        """Set the listeners: one for TLS with a secret, a plain one (or another in its place), and more."""
        tls = secret_listener("tls", self.instance.tls.port, SECRET, aggregated(self.fetch_timeout))
        self.plane.listeners(tls, plain or plain_listener("plain", self.instance.plain.port), *more)

    def secret(self) -> None:
        """Set a new secret."""
        leaf = self.secrets.leaf()
        self.plane.secret(SECRET, leaf.chain_pem, leaf.key_pem)

    def unfit_secret(self) -> None:
        """Set a secret whose key belongs to another certificate."""
        self.plane.secret(SECRET, self.secrets.spare().chain_pem, self.secrets.spare().key_pem)

    def start(self) -> None:
        """Start the control plane and the agent, and wait until clients are served."""
        self.plane.start()
        self.launch()
        self.ready()

    def prepare(self) -> None:
        """Write the agent's files."""
        self.instance.prepare()
        (self.instance.certs / ROOT).write_bytes(authority().pem)

    def launch(self) -> None:
        """Start the agent without waiting."""
        self.prepare()
        self.instance.launch()

    def ready(self) -> None:
        """Wait until the agent is ready, serves the newest secret and holds the sockets."""
        eventually(self._is_ready, what="the agent is ready")
        targets = (self.instance.tls, self.instance.plain)
        eventually(lambda: all(map(self.instance.holds, targets)), what="the agent holds the sockets")

    def _is_ready(self) -> bool:
        assert self.instance.agent is not None
        assert self.instance.agent.poll() is None, f"the agent ended with {self.instance.agent.returncode}"
        state = self.instance.state()
        return state.agent_pid == self.instance.agent_pid and state.ready and self.serves()

    def serves(self) -> bool:
        """Return whether new clients get the newest secret, and a plain response."""
        return self.instance.serial_served() == serial(self.secrets.newest) and body_of(self.instance.plain) == b"ok\n"

    def rotate(self) -> Epoch:
        """Renew the client pair; return the epoch that serves until the next one takes over."""
        before = self.instance.serving()
        self.instance.journal.mark()
        self.instance.rotate()
        return before

    def committed(self, before: Epoch) -> None:
        """Wait until a later epoch serves with the newest client pair, and no candidate exists."""
        eventually(lambda: self._is_committed(before), what=f"an epoch after {before.number} serves")
        assert self.serves(), "with its certificate and its listeners"

    def _is_committed(self, before: Epoch) -> bool:
        state, serving = self.instance.state(), self.instance.serving()
        newest = serial(self.instance.mint.newest) in self.plane.client_serials()
        return serving.number > before.number and newest and serving.revision == state.wanted and not unfinished(state)

    def stays(self, before: Epoch, span: float) -> None:
        """Check for a span that only this epoch serves."""
        what = f"epoch {before.number} serves"
        throughout(lambda: self.instance.serving() == before and self.serves(), span=span, what=what, every=0.05)

    def dropped(self) -> list[Entry]:
        """List the candidates that were dropped since the start of the last rotation."""
        return [entry for entry in self.instance.journal.entries() if entry.name == "epoch.dropped"]

    def log(self) -> str:
        """Return the warnings and errors since the start of the last rotation."""
        return "\n".join(entry.text for entry in self.instance.journal.complaints())

    def names_of_the_plane(self) -> tuple[str, ...]:
        """Return the names of the control plane in messages: its cluster and its address."""
        return CLUSTER, f"{HOST}:{self.plane.port}"

    def explains(self, names: Sequence[str], words: Sequence[str] = ()) -> None:
        """Wait until the log, the status document and `agent status` contain one of the names and one of the words."""
        sources: dict[str, Callable[[], str]] = {
            "the log": self.log,
            "/status": lambda: ask(self.instance, "/status").text,
            "agent status": lambda: agent("status", "--run-dir", self.instance.run_dir).out,
        }
        for source, read in sources.items():
            check = partial(mentions, read, names, words)
            eventually(check, what=reason(source, names, words))

    def unready(self, names: Sequence[str], words: Sequence[str] = ()) -> None:
        """Wait until the readiness probe fails with one of the names and one of the words."""

        def told() -> bool:
            reply = ask(self.instance, "/healthz/ready")
            assert reply.status == 503, f"{reply.status} {reply.text}"
            return mentions(lambda: reply.text, names, words)

        eventually(told, what=reason("/healthz/ready", names, words))


def unfinished(state: State) -> bool:
    """Return whether a candidate exists."""
    return bool(state.among(CANDIDATE))


def mentions(read: Callable[[], str], names: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether a text, whatever its line breaks, contains one of the names and one of the words."""
    text = read()
    flat = "".join(text.split()).lower()
    for group in (names, words):
        found = any("".join(one.split()).lower() in flat for one in group)
        assert found or not group, f"none of {group} in: {text}"
    return True


def reason(source: str, names: Sequence[str], words: Sequence[str]) -> str:
    """Describe the expected message of a source."""
    return f"{source} mentions {' or '.join(names)}" + (f" and {' or '.join(words)}" if words else "")
