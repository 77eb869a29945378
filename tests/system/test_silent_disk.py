"""The file system of the certificates hangs, as NFS and FUSE do: it is reported, and the agent continues."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.agents import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.loads import Loads
from tests.system.room import kill
from tests.system.silence import Silence, silence
from tests.system.status_pollers import ask

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="wants /dev/fuse"),
]


def lead(link: Path, target: Path) -> None:
    """Change the target of a link, in one step."""
    beside = link.with_name("beside")
    beside.symlink_to(target)
    beside.replace(link)


@pytest.fixture
def quiet(bed_apart: AgentFixture) -> Iterator[Silence]:
    """A hanging file system; a link leads to the certificates of the fixture, which runs by now."""
    bed = bed_apart
    (bed.directory / "good").mkdir()
    bed.certs.symlink_to("good")
    with silence(bed.directory / "silent") as silent:
        bed.start()
        yield silent
        lead(bed.certs, Path("good"))


def falls_silent(bed: AgentFixture, silent: Silence) -> str:
    """Make the certificates unreachable; return the agent's message."""
    bed.journal.mark()
    lead(bed.certs, silent.path)
    (said,) = eventually(lambda: bed.journal.named("disk.silent"), what="it is said")
    return said.body


def test_a_disk_that_hangs_is_named_and_nothing_waits_for_it(
    bed_apart: AgentFixture, quiet: Silence, loads: Loads
) -> None:
    bed = bed_apart
    loads.gentle(bed.tls, bed.plain)
    said = falls_silent(bed, quiet)
    assert str(bed.certs) in said
    assert str(bed.config) not in said, "that one answers"
    before = bed.serving().number
    kill(bed.serving_pid())
    eventually(lambda: bed.serving().number > before, what="a killed proxy is replaced")
    assert ask(bed, "/healthz/ready").status == 200
    ordered = agent("restart", "--run-dir", bed.run_dir)
    assert (ordered.code != 0, "does not answer" in ordered.err + ordered.out) == (True, True), ordered
    assert "does not answer" in agent("status", "--run-dir", bed.run_dir).out
    lead(bed.certs, Path("good"))
    quiet.end()
    bed.rotate()
    bed.served()
    assert bed.journal.named("disk.answers")
    reports = loads.finish(at_least=20)
    assert sum(report.reasons()["refused"] for report in reports) == 0


@pytest.mark.long
def test_an_agent_ends_though_the_disk_hangs(bed_apart: AgentFixture, quiet: Silence) -> None:
    falls_silent(bed_apart, quiet)
    bed_apart.stop()


@pytest.mark.long
def test_an_agent_that_is_started_beside_a_silent_disk_says_what_it_waits_for(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    bed.prepare()
    good = bed.certs.rename(bed.directory / "good")
    with silence(bed.directory / "silent") as silent:
        bed.certs.symlink_to(silent.path)
        bed.launch()
        eventually(lambda: bed.journal.named("disk.silent"), what="it is said")
        answer = ask(bed, "/healthz/ready")
        assert (answer.status, b"does not answer" in answer.body) == (503, True)
        lead(bed.certs, good)
        silent.end()
        bed.ready()
