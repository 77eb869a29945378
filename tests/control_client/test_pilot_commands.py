"""`pilot-agent request` and `pilot-agent wait`."""

import socket
from collections.abc import Iterator

import pytest

from agent.control_client import pilot_commands
from agent.core.errors import MachineError, UsageError
from tests.control_client.fake_agent import Clock, answering, answering_each

OK = b"HTTP/1.1 200 OK\r\n\r\n"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen at a port that `request` takes for one of the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        monkeypatch.setattr(pilot_commands, "_PORTS", (made.getsockname()[1],))
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stand in for the time."""
    made = Clock()
    monkeypatch.setattr(pilot_commands, "time", made)
    monkeypatch.setattr("agent.control_client.client.time", made)
    return made


def port_of(listener: socket.socket) -> str:
    return f"--debug-port={listener.getsockname()[1]}"


# request


@pytest.mark.parametrize("path", ["stats?filter=cx", "/stats?filter=cx"])
def test_an_answer_is_printed_with_a_newline_and_nothing_else(
    path: str, listener: socket.socket, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with answering(listener, OK, b"a: 1\nb", b": 2\n") as heard:
        assert pilot_commands.run("request", [port_of(listener), "get", path]) == 0
    assert heard[0].startswith(b"GET /stats?filter=cx HTTP/1.1\r\nhost: localhost\r\n")
    assert capfdbinary.readouterr() == (b"a: 1\nb: 2\n\n", b"")


def test_a_body_is_sent(listener: socket.socket) -> None:
    with answering(listener, OK) as heard:
        pilot_commands.request([port_of(listener), "POST", "logging", "level=debug"])
    assert b"content-length: 11\r\n" in heard[0]
    assert heard[0].endswith(b"\r\n\r\nlevel=debug")


def test_a_chunked_answer_is_decoded(listener: socket.socket, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(listener, head, b"4;x=y\r\nab", b"c\n\r\nA\r\n0123456789\r\n0\r\n\r\n"):
        pilot_commands.request([port_of(listener), "GET", "x"])
    assert capfdbinary.readouterr().out == b"abc\n0123456789\n"


@pytest.mark.parametrize("status", [b"200", b"302", b"399", b"404"])
def test_statuses_that_are_no_error(status: bytes, listener: socket.socket) -> None:
    with answering(listener, b"HTTP/1.1 " + status + b" X\r\n\r\nbody"):
        assert pilot_commands.run("request", [port_of(listener), "GET", "x"]) == 0


@pytest.mark.parametrize("status", [b"400", b"403", b"405", b"500", b"503"])
def test_another_status_is_an_error_on_standard_error(
    status: bytes, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(listener, b"HTTP/1.1 " + status + b" X\r\n\r\nbody"):
        assert pilot_commands.run("request", [port_of(listener), "POST", "drain"]) == 255
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"pilot-agent: cannot use the answer to POST /drain: its status is {status.decode()}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GET"], "its arguments are METHOD PATH"),
        (["GET", "a", "b", "c"], "its arguments are METHOD PATH"),
        (["--debug-port=80", "GET", "a"], "80 is not one of the ports 15000, 15004, 15020, 15021"),
        (["--debug-port"], "--debug-port needs a value"),
        (["--nope", "GET", "a"], "unknown flag --nope"),
        (["G ET", "a"], "cannot be sent by HTTP"),
        (["GET", "a b"], "cannot be sent by HTTP"),
        (["GET", "a\r\nb: c"], "cannot be sent by HTTP"),
    ],
)
def test_other_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pilot_commands.request(arguments)


def test_a_server_that_is_not_there_is_named(listener: socket.socket) -> None:
    port = port_of(listener)
    listener.close()
    with pytest.raises(MachineError, match=r"cannot reach http://localhost:\d+/x: connection refused"):
        pilot_commands.request([port, "GET", "x"])


@pytest.mark.parametrize(
    "parts",
    [
        [b"garbage"],
        [b""],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"9\r\nab"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b""],
    ],
)
def test_an_answer_that_breaks_off_is_an_error(parts: list[bytes], listener: socket.socket) -> None:
    with answering(listener, *parts), pytest.raises(MachineError, match="cannot read the answer of http://localhost"):
        pilot_commands.request([port_of(listener), "GET", "x"])


# wait


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/healthz/ready"


def test_the_first_probe_is_made_at_once(listener: socket.socket, clock: Clock) -> None:
    with answering(listener, OK) as heard:
        assert pilot_commands.run("wait", ["--url", url_of(listener)]) == 0
    assert clock.slept == []
    assert heard[0].startswith(b"GET /healthz/ready HTTP/1.1\r\n")


def test_probes_are_made_a_period_apart(listener: socket.socket, clock: Clock) -> None:
    with answering_each(listener, [[BUSY], [BUSY], [OK]]):
        pilot_commands.wait([f"--url={url_of(listener)}", "--periodMillis", "250"])
    assert clock.slept == [0.25, 0.25]


def test_the_last_reason_is_told(listener: socket.socket, clock: Clock) -> None:
    with (
        answering_each(listener, [[BUSY, b"starting\n"], [BUSY, b"no epoch serves\n"]]),
        pytest.raises(MachineError, match="cannot wait any longer than 1 s for readiness: no epoch serves"),
    ):
        pilot_commands.wait(["--timeoutSeconds", "1", "--url", url_of(listener), "--periodMillis=1000"])
    assert clock.slept == [1.0]


def test_a_server_that_never_comes_is_named(listener: socket.socket, clock: Clock) -> None:
    url = url_of(listener)
    listener.close()
    assert pilot_commands.run("wait", ["--timeoutSeconds=2", "--url", url]) == 255
    assert clock.slept == [0.5] * 4


def test_a_probe_ends_at_its_own_timeout(listener: socket.socket, clock: Clock) -> None:
    with (
        answering_each(listener, [[clock.passes(0.3), BUSY], [OK]]),
    ):
        pilot_commands.wait(["--requestTimeoutMillis=200", "--url", url_of(listener)])
    assert clock.slept == [0.5]


@pytest.mark.parametrize("arguments", [["--timeoutSeconds=x"], ["--periodMillis=-1"], ["now"], ["--nope"], ["--url"]])
def test_other_arguments_of_wait_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="cannot run pilot-agent wait: "):
        pilot_commands.wait(arguments)
