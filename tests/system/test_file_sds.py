"""The operator's own SDS by files (`path_config_source`): its document, or a file that it names, becomes invalid."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.agents import agent
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import serial_served
from tests.system.bootstrap import Json, replace
from tests.system.certificates import Mint, Pair, serial
from tests.system.conftest import Envoys, MakeInstance
from tests.system.eventually import PATIENCE, eventually, throughout
from tests.system.loads import Loads, nothing_failed
from tests.system.plane.behaviour import KINDS, SECRETS
from tests.system.plane.site import SECRET
from tests.system.plane.sources import secret_listener
from tests.system.room import kill
from tests.system.state import CANDIDATE
from tests.system.test_crash import only_in_flight
from tests.system.wire import Target

pytestmark = pytest.mark.envoy

GARBAGE = b"-----BEGIN PRIVATE KEY-----\nnot base64 at all\n-----END PRIVATE KEY-----\n"
Describe = Callable[[Path, bytes, bytes], Json]


def inline(directory: Path, chain: bytes, key: bytes) -> Json:
    """Return a TlsCertificate with inline bytes."""
    pair = {"certificate_chain": chain, "private_key": key}
    return {part: {"inline_string": data.decode("ascii")} for part, data in pair.items()}


def files(directory: Path, chain: bytes, key: bytes) -> Json:
    """Return a TlsCertificate that names files, and write them."""
    pair = {"certificate_chain": chain, "private_key": key}
    for part, data in pair.items():
        replace(directory / f"{part}.pem", data.decode("ascii"))
    return {part: {"filename": str(directory / f"{part}.pem")} for part in pair}


@dataclass
class Secret:
    """A secret in a directory of its own, outside of `--certs`, and its listener."""

    instance: AgentFixture
    describe: Describe

    def __post_init__(self) -> None:
        self.directory = self.instance.directory / "sds"
        self.directory.mkdir()
        self.document = self.directory / "secret.json"
        self.target = Target(HOST, self.instance.room.port(), tls=True)
        self.mint = Mint()
        path = {"path": str(self.document), "watched_directory": {"path": str(self.directory)}}
        source = {"path_config_source": path, "resource_api_version": "V3"}
        self.instance.bootstrap.more = [secret_listener("edge", self.target.port, SECRET, source)]
        self.put(self.mint.leaf())

    def put(self, pair: Pair) -> None:
        """Write a pair, and the document last: Envoy then reads all of it again."""
        self._write(pair.chain_pem, pair.key_pem)

    def spoil(self) -> None:
        """Write garbage in place of the key."""
        self._write(self.mint.newest.chain_pem, GARBAGE)

    def _write(self, chain: bytes, key: bytes) -> None:
        secret = {"@type": KINDS[SECRETS], "name": SECRET, "tls_certificate": self.describe(self.directory, chain, key)}
        replace(self.document, json.dumps({"resources": [secret]}))

    def start(self) -> None:
        """Start the agent and wait until clients get the secret."""
        self.instance.start()
        eventually(self.served, what="the secret is served")
        self.instance.journal.mark()

    def served(self) -> bool:
        """Return whether new clients get the newest valid pair."""
        return serial_served(self.target) == serial(self.mint.newest)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the possible names of the fault in a message: the secret, its document, or the file of the key."""
        return SECRET, str(self.document), str(self.directory / "private_key.pem")

    def complaints(self) -> list[str]:
        """List the warnings about it."""
        return [
            entry.text for entry in self.instance.journal.complaints() if any(name in entry.text for name in self.names)
        ]


MakeSecret = Callable[..., Secret]


@pytest.fixture
def make_secret(make_instance: MakeInstance) -> MakeSecret:
    return lambda describe, **fields: Secret(make_instance(**fields), describe)


BOTH = pytest.mark.parametrize("describe", [files, pytest.param(inline, marks=pytest.mark.long)])
VERSIONS = pytest.mark.parametrize("version", ["1.40", pytest.param("1.36", marks=pytest.mark.long)])


@BOTH
@VERSIONS
def test_garbage_that_is_watched_is_refused_and_the_old_one_serves_on(
    describe: Describe, version: str, envoys: Envoys, make_secret: MakeSecret, loads: Loads
) -> None:
    """The file is watched because of `--watch`."""
    secret = make_secret(describe, binary=envoys(version))
    instance = secret.instance
    instance.more_flags += ["--watch", str(secret.directory)]
    secret.start()
    loads.light(secret.target, instance.plain)
    before = instance.serving()
    secret.spoil()
    eventually(secret.complaints, what="a complaint about the secret")
    eventually(lambda: not instance.state().among(CANDIDATE), what="the candidate is gone")
    throughout(lambda: instance.serving() == before and secret.served(), span=1, what="the old one serves", every=0.05)
    secret.put(secret.mint.leaf())
    eventually(lambda: instance.serving().number > before.number and secret.served(), what="the repair serves")
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.parametrize("describe", [inline, pytest.param(files, marks=pytest.mark.long)])
@VERSIONS
def test_a_restart_onto_garbage_fails_at_once_and_names_it(
    describe: Describe, version: str, envoys: Envoys, make_secret: MakeSecret, loads: Loads
) -> None:
    """By `agent restart`."""
    secret = make_secret(describe, binary=envoys(version))
    instance = secret.instance
    secret.start()
    loads.light(secret.target, instance.plain)
    before = instance.serving()
    secret.spoil()
    ran = agent("restart", "--run-dir", instance.run_dir, timeout=PATIENCE)  # less than the start deadline
    assert ran.code != 0, ran.out
    assert any(name in "".join((ran.out + ran.err).split()) for name in secret.names), ran.out + ran.err
    throughout(
        lambda: instance.serving() == before and secret.served(), span=0.5, what="the old one serves", every=0.05
    )
    secret.put(secret.mint.leaf())
    ran = agent("restart", "--run-dir", instance.run_dir, timeout=PATIENCE)
    assert ran.code == 0, ran.out + ran.err
    assert secret.served()
    nothing_failed(loads.finish(at_least=20))


@BOTH
@VERSIONS
def test_after_a_crash_beside_garbage_the_last_good_secret_serves(
    describe: Describe, version: str, envoys: Envoys, make_secret: MakeSecret, loads: Loads
) -> None:
    """The serving proxy is killed while the file is invalid."""
    secret = make_secret(describe, binary=envoys(version))
    instance = secret.instance
    secret.start()
    loads.gentle(secret.target, instance.plain)
    loads.more(20)
    secret.spoil()
    before = instance.serving()
    death = kill(before.pid)
    eventually(lambda: instance.serving().number > before.number and secret.served(), what="last good serves")
    loads.more(20)
    only_in_flight(loads.finish(), [death])
