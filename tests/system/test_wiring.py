"""What only a running agent shows of how its parts are connected; with the built-in proxy, each life in seconds."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bootstrap import replace
from tests.system.certificates import NAME
from tests.system.conftest import INSTANCES
from tests.system.eventually import PATIENCE, eventually
from tests.system.proxies import Console, needed
from tests.system.room import Room, stopped
from tests.system.stand_ins import script
from tests.system.status_pollers import ask, overview
from tests.system.wire import connect, exchange, tls_context

HURRIED = (sys.executable, "-m", "tests.system.hurried")
COUNTED = "envoy_http_downstream_rq_total"


class Application(BaseHTTPRequestHandler):
    """An application that counts orders."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"orders_total 7\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def life(room: Room, request: pytest.FixtureRequest) -> Iterator[AgentFixture]:
    """An agent with short spans, not started; it stops well at the end."""
    instance = AgentFixture(room, "b", needed("sidecar").binary, program=HURRIED, proxy_args=["-l", "warning"])
    request.node.stash[INSTANCES] = [instance]
    yield instance
    instance.stop()


@pytest.fixture
def notifications(life: AgentFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket at which systemd listens to the agent."""
    name = f"\0{life.directory}"  # in the abstract namespace, which the agent and the test share
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(0)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield systemd


@pytest.fixture
def application(life: AgentFixture) -> Iterator[str]:
    """The URL of an application's metrics."""
    with ThreadingHTTPServer(("127.0.0.1", life.room.port()), Application) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def told(systemd: socket.socket) -> tuple[str, list[int]]:
    """Read all that systemd has been told, and the inodes of the sockets that it was given."""
    text, inodes = "", list[int]()
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(systemd, 65536, 16)
        except BlockingIOError:
            return text, inodes
        text += f"{data.decode()}\n"
        for descriptor in descriptors:
            inodes.append(os.fstat(descriptor).st_ino)
            os.close(descriptor)


def order(instance: AgentFixture, *words: str) -> "subprocess.CompletedProcess[str]":
    """Give an order as an operator would."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def counted(instance: AgentFixture) -> float:
    """Read how many requests all epochs have counted."""
    rows = (line for line in ask(instance, "/metrics").text.splitlines() if line.startswith(COUNTED))
    return sum(float(line.rpartition(" ")[2]) for line in rows)


def status_by(instance: AgentFixture, name: str) -> int:
    """Ask for the status by another host name; return the status code."""
    connection = http.client.HTTPConnection(instance.status.host, instance.status.port, timeout=PATIENCE)
    connection.request("GET", "/status", headers={"Host": name})
    with contextlib.closing(connection), connection.getresponse() as response:
        return response.status


def request(instance: AgentFixture) -> None:
    """Be answered once."""
    with connect(instance.plain, tls_context()) as client:
        exchange(client, last=True)


def test_a_rotation_is_proved_counted_and_told_to_everybody(
    life: AgentFixture, notifications: socket.socket, application: str
) -> None:
    instance, admin = life, life.room.port()
    log = instance.directory / "proxy.log"
    instance.proxy_args += ["--log-path", str(log)]
    instance.more_flags += ["--app-metrics", application, "--kubernetes-events", "--http-actions"]
    instance.more_flags += ["--status-name", "agent.example"]
    instance.prepare()
    tree = instance.bootstrap.tree() | {
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}},
            "allow_paths": [{"exact": "/ready"}],
        }
    }
    replace(instance.config, json.dumps(tree))
    instance.launch()
    instance.ready()
    assert instance.journal.named("events.unavailable"), "there is no cluster to tell"
    assert "orders_total 7" in ask(instance, "/metrics").text
    eventually(lambda: Console(admin).ask("/ready").status == 200, what="the admin address leads to the epoch")
    assert Console(admin).ask("/stats").status == 403
    assert [status_by(instance, name) for name in ("agent.example", "rebound.example")] == [200, 421]
    for _ in range(3):
        request(instance)
    before = counted(instance)
    assert before >= 3

    text, inodes = told(notifications)
    assert "READY=1" in text
    assert "STATUS=epoch 1 serves" in text
    assert len(set(inodes)) == 2, "both listeners are in systemd's store"

    log.rename(instance.directory / "older.log")
    os.kill(instance.agent_pid, signal.SIGUSR1)
    eventually(log.exists, what="the proxy has opened its log anew")
    os.kill(instance.agent_pid, signal.SIGQUIT)
    eventually(lambda: instance.journal.named("agent.state"), what="the state is in the log")

    assert order(instance, "pause", "--for", "10m").returncode == 0
    instance.rotate()
    eventually(lambda: overview(instance)["blocked"] == ["paused"], what="it is told what is waited for")
    assert order(instance, "resume").returncode == 0
    instance.served()
    instance.settled()
    assert counted(instance) >= before, "what the epoch before has counted is kept"
    eventually(lambda: len(instance.journal.named("rotation.done")) == 2, what="the rotation is told")
    evidence = overview(instance)["rotations"][0]["evidence"]
    assert [each["matches"] for each in evidence["seen"]] == [True]
    assert "RELOADING=1" in told(notifications)[0]

    assert Console(instance.status.port).ask("/quitquitquit", "POST").status == 200
    assert instance.exited() == 0
    assert "STOPPING=1" in told(notifications)[0]


def test_one_that_hangs_is_reported_replaced_and_killed(life: AgentFixture) -> None:
    instance, now = life, datetime.now(UTC).astimezone()
    hours = "-".join((now + timedelta(hours=each)).strftime("%H:%M") for each in (3, 4))
    instance.more_flags += ["--replace-hung", "0.5s", "--no-proof", "--metrics-merge", "off", "--rotate-window", hours]
    instance.start()
    assert Console(instance.status.port).ask("/quitquitquit", "POST").status == 403
    metrics = ask(instance, "/metrics").text
    assert COUNTED in metrics
    assert "proxy_agent_ready" not in metrics
    hung = instance.serving()
    with stopped(hung.pid), ExitStack() as stack:
        clients = [stack.enter_context(connect(instance.plain, tls_context())) for _ in range(3)]
        assert all(exchange(each, last=True).body == b"ok\n" for each in clients), "by the next one"
        instance.settled()
    events = [each.name for each in instance.journal.entries()]
    assert {"service.hung", "service.replaced", "epoch.killed", "service.answers"} <= {*events}
    assert overview(instance)["rotations"][0]["evidence"]["seen"] == []
    instance.rotate()
    eventually(lambda: overview(instance)["blocked"] == ["window"], what="it is told what is waited for")


def test_what_is_about_to_end_waits_for_no_pause(life: AgentFixture) -> None:
    instance, now = life, datetime.now(UTC)
    sidecar, instance.binary = instance.binary, instance.directory / "proxy"
    script(instance.binary, f'exec {sidecar} "$@"')
    old = instance.mint.issuer.issue(
        [NAME], not_before=now - timedelta(minutes=990), not_after=now + timedelta(minutes=10)
    )
    instance.mint.issued.append(old)
    instance.bootstrap.write(instance.config)
    instance.layout.first(instance.certs, old)
    instance.launch()
    instance.ready()
    assert order(instance, "pause", "--for", "1h").returncode == 0
    instance.rotate()
    instance.served()
    instance.settled()  # or the client is one of the epoch that drains already
    before = instance.serving()
    script(instance.binary, f'# another one\nexec {sidecar} "$@"')
    with connect(instance.plain, tls_context()) as client:
        exchange(client, last=False)
        client.sendall(b"GET / HTTP/1.1\r\n")
        done = order(instance, "restart", "--binary", "--now")
        assert done.returncode == 0, done.stderr
        assert client.recv(1) == b"", "what was connected to the epoch before is cut"
    assert instance.serving().revision != before.revision, "of another program"


def test_one_that_leaves_keeps_its_epochs_for_the_next(life: AgentFixture) -> None:
    instance = life
    instance.more_flags += ["--survive"]
    instance.start()
    before = instance.serving()
    os.kill(instance.agent_pid, signal.SIGUSR2)
    assert instance.exited() == 0
    request(instance)
    instance.launch()
    instance.ready()
    assert instance.serving() == before
    assert overview(instance)["rotations"][0]["trigger"] == "adoption"
