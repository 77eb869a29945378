"""A running agent has imported what it needs, and nothing for the command line or for texts that it never shows."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.status_pollers import ask

COMMAND_LINE = ("click", "difflib", "rich", "agent.cli.main", "agent.cli.options", "agent.cli.run")
OTHER_PROGRAMS = (
    "agent.demo",
    "agent.injection",
    "agent.interception",
    "agent.istio",
    "agent.sidecar",
    "agent.units",
    "agent.webhook",
)
METRICS_AND_PAGES = ("prometheus_client", "html", "http", "platform", "socketserver", "urllib.request", "wsgiref")
PROBES = ("agent.core.app_probes", "agent.status.app_probes", "agent.status.grpc_health")
UNUSED = (*COMMAND_LINE, *OTHER_PROGRAMS, *METRICS_AND_PAGES, *PROBES)
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
def spied(unstarted: AgentFixture) -> Callable[..., Callable[[], set[str]]]:
    """Return a function that starts an agent with more flags until it is ready, and returns one for its modules."""
    path, script = unstarted.directory / "modules", unstarted.directory / "spy.py"
    script.write_text(_SPY.format(path=str(path), number=int(_ASK)), encoding="ascii")
    unstarted.program = (sys.executable, str(script))

    def names() -> set[str]:
        path.unlink(missing_ok=True)
        os.kill(unstarted.agent_pid, _ASK)
        eventually(path.exists, what="the agent has written the names of its modules")
        return set(path.read_text(encoding="ascii").splitlines())

    def start(*flags: str) -> Callable[[], set[str]]:
        unstarted.more_flags += flags
        unstarted.start()
        return names

    return start


@pytest.fixture
def imported(spied: Callable[..., Callable[[], set[str]]]) -> Callable[[], set[str]]:
    """Start an agent that is ready; return a function that asks it for the names of its modules."""
    return spied("--replace-hung", "10s", "--http-actions", "--proof")


def _is_of(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


@pytest.mark.sidecar
def test_an_agent_that_probes_its_application_imports_nothing_for_it_later(
    unstarted: AgentFixture, spied: Callable[..., Callable[[], set[str]]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as application:
        port = application.getsockname()[1]
        kinds = {"http": {"httpGet": {"port": port, "scheme": "HTTPS"}}, "tcp": {"tcpSocket": {"port": port}}}
        kinds |= {"grpc": {"grpc": {"port": port}}, "closed": {"httpGet": {"port": 1}}}
        probers = json.dumps({f"/app-health/{name}/livez": probe for name, probe in kinds.items()})
        names = spied("--app-probers", probers)
        before = names()
        assert before >= set(PROBES)
        for name in kinds:
            status = ask(unstarted, f"/app-health/{name}/livez").status
            assert status == (200 if name == "tcp" else 500)
        assert names() - before == set()


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
