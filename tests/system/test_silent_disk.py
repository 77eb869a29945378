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
def quiet(unstarted: AgentFixture) -> Iterator[Silence]:
    """A hanging file system; a link leads to the certificates of the fixture, which runs by now."""
    instance = unstarted
    (instance.directory / "good").mkdir()
    instance.certs.symlink_to("good")
    with silence(instance.directory / "silent") as silent:
        instance.start()
        yield silent
        lead(instance.certs, Path("good"))


def falls_silent(instance: AgentFixture, silent: Silence) -> str:
    """Make the certificates unreachable; return the agent's message."""
    instance.journal.mark()
    lead(instance.certs, silent.path)
    (said,) = eventually(lambda: instance.journal.named("disk.silent"), what="it is said")
    return said.body


def test_a_disk_that_hangs_is_named_and_nothing_waits_for_it(
    unstarted: AgentFixture, quiet: Silence, loads: Loads
) -> None:
    instance = unstarted
    loads.gentle(instance.tls, instance.plain)
    said = falls_silent(instance, quiet)
    assert str(instance.certs) in said
    assert str(instance.config) not in said, "that one answers"
    before = instance.serving().number
    kill(instance.serving_pid())
    eventually(lambda: instance.serving().number > before, what="a killed proxy is replaced")
    assert ask(instance, "/healthz/ready").status == 200
    ordered = agent("restart", "--run-dir", instance.run_dir)
    assert (ordered.code != 0, "does not answer" in ordered.err + ordered.out) == (True, True), ordered
    assert "does not answer" in agent("status", "--run-dir", instance.run_dir).out
    lead(instance.certs, Path("good"))
    quiet.end()
    instance.rotate()
    instance.served()
    assert instance.journal.named("disk.answers")
    reports = loads.finish(at_least=20)
    assert sum(report.reasons()["refused"] for report in reports) == 0


@pytest.mark.long
def test_an_agent_ends_though_the_disk_hangs(unstarted: AgentFixture, quiet: Silence) -> None:
    falls_silent(unstarted, quiet)
    unstarted.stop()


@pytest.mark.long
def test_an_agent_that_is_started_beside_a_silent_disk_says_what_it_waits_for(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.prepare()
    good = instance.certs.rename(instance.directory / "good")
    with silence(instance.directory / "silent") as silent:
        instance.certs.symlink_to(silent.path)
        instance.launch()
        eventually(lambda: instance.journal.named("disk.silent"), what="it is said")
        answer = ask(instance, "/healthz/ready")
        assert (answer.status, b"does not answer" in answer.body) == (503, True)
        lead(instance.certs, good)
        silent.end()
        instance.ready()
