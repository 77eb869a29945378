"""Probes of an application by the agent: a kubelet's requests, while a proxy serves, none does, and one drains."""

import json
import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.cli.agents import agent
from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import healthy
from tests.system.eventually import eventually
from tests.system.status_pollers import ask
from tests.system.test_stop import FAR
from tests.system.wire import connect, exchange, tls_context

pytestmark = pytest.mark.sidecar


class Application(BaseHTTPRequestHandler):
    """Answers /live with 200 and everything else with 503."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/live" else 503)
        self.end_headers()
        self.wfile.write(b"told")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as its base has it
        """Log nothing."""


@pytest.fixture
def application() -> Iterator[int]:
    with HTTPServer((HOST, 0), Application) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def probed(unstarted: AgentFixture, application: int) -> AgentFixture:
    probes = {
        "/app-health/shop/livez": {"httpGet": {"path": "/live", "port": application}, "timeoutSeconds": 20},
        "/app-health/shop/readyz": {"httpGet": {"path": "/ready", "port": application}, "timeoutSeconds": 20},
        "/app-lifecycle/shop/prestopz": {"tcpSocket": {"port": application}},
    }
    unstarted.more_flags += ["--app-probers", json.dumps(probes), "--stop-deadline", FAR, "--http-actions"]
    return unstarted


def answers(instance: AgentFixture) -> list[tuple[int, str]]:
    paths = ("/app-health/shop/livez", "/app-health/shop/readyz", "/app-lifecycle/shop/prestopz")
    replies = [ask(instance, path) for path in paths]
    return [(reply.status, reply.text) for reply in replies]


EXPECTED = [(200, "told"), (503, "told"), (200, "connected\n")]


def test_the_application_is_probed_whether_a_proxy_serves_or_not(probed: AgentFixture) -> None:
    """An application must not be restarted for its proxy's sake."""
    instance = probed
    instance.prepare()
    good = (instance.certs / "tls.crt").read_bytes()
    (instance.certs / "tls.crt").write_bytes(b"unusable")
    instance.launch()
    eventually(lambda: ask(instance, "/healthz/ready").status == 503, what="the status server answers")
    assert answers(instance) == EXPECTED, "no proxy serves"
    (instance.certs / "tls.crt").write_bytes(good)
    instance.ready()
    assert answers(instance) == EXPECTED, "a proxy serves"
    assert ask(instance, "/app-health/other/livez").status == 400
    with connect(instance.plain, tls_context()) as client:
        exchange(client, last=False)
        os.kill(instance.agent_pid, signal.SIGTERM)
        eventually(lambda: not healthy(instance.status), what="it drains")
        assert answers(instance) == EXPECTED, "it drains"


def test_probes_that_cannot_be_used_end_the_agent_with_a_usage_error_that_names_the_path() -> None:
    bad = json.dumps({"/app-health/shop/livez": {"httpGet": {"port": "http"}}})
    told = agent("--certs", "/nowhere", "--app-probers", bad)
    assert told.code == 2
    assert "/app-health/shop/livez has the port 'http'" in told.err
