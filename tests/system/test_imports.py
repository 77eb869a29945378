"""A running agent has imported what it needs, and nothing for the command line or for texts that it never shows."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.status_pollers import ask

COMMAND_LINE = ("click", "difflib", "rich", "agent.cli.main", "agent.cli.options", "agent.cli.run")
OTHER_PROGRAMS = ("agent.demo", "agent.sidecar", "agent.units")
METRICS_AND_PAGES = ("prometheus_client", "html", "http", "platform", "socketserver", "urllib.request", "wsgiref")
UNUSED = (*COMMAND_LINE, *OTHER_PROGRAMS, *METRICS_AND_PAGES)
"""Modules that no running agent imports, by name or by the name of a package of theirs."""

_SPY = """
import os, signal, sys

def write(*_):
    with open({path!r} + ".new", "w") as file:
        file.write("\\n".join(sys.modules))
    os.rename({path!r} + ".new", {path!r})

signal.signal({number}, write)
from agent.entry import main
main()
"""
_ASK = signal.SIGRTMIN + 1


@pytest.fixture
def imported(unstarted: AgentFixture) -> Callable[[], set[str]]:
    """Start an agent that is ready; return a function that asks it for the names of its modules."""
    path, script = unstarted.directory / "modules", unstarted.directory / "spy.py"
    script.write_text(_SPY.format(path=str(path), number=int(_ASK)), encoding="ascii")
    unstarted.program = (sys.executable, str(script))
    unstarted.more_flags += ["--replace-hung", "10s", "--http-actions", "--proof"]
    unstarted.start()

    def names() -> set[str]:
        path.unlink(missing_ok=True)
        os.kill(unstarted.agent_pid, _ASK)
        eventually(path.exists, what="the agent has written the names of its modules")
        return set(path.read_text(encoding="ascii").splitlines())

    return names


def _is_of(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


@pytest.mark.sidecar
def test_a_running_agent_has_imported_nothing_that_it_never_uses(imported: Callable[[], set[str]]) -> None:
    names = imported()
    assert "agent.supervisor.supervisor" in names
    assert not {name for name in names if _is_of(name, UNUSED)}


@pytest.mark.sidecar
def test_an_agent_that_is_ready_imports_nothing_more(unstarted: AgentFixture, imported: Callable[[], set[str]]) -> None:
    """An upgrade may have replaced the files from which it would import."""
    before = imported()
    for path in ("/", "/status", "/metrics", "/stats", "/healthz/ready"):
        ask(unstarted, path)
    unstarted.rotate()
    unstarted.served()
    unstarted.settled()
    (unstarted.certs / "tls.crt").write_bytes(b"garbage")
    eventually(lambda: "certificate.refused" in unstarted.journal.path.read_text(encoding="utf-8"))
    os.kill(unstarted.serving_pid(), signal.SIGKILL)
    eventually(lambda: unstarted.serving().number == 3, what="the last good one is started again")
    unstarted.served()
    assert imported() - before == set()
