import _socket
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control_client import client
from agent.control_client.client import Exchange, at_control, at_url, explain, split
from agent.control_client.run_dir import NoAgent
from agent.core.errors import MachineError, UsageError
from tests.control_client.fake_agent import Clock, answering, at_path


def soon() -> float:
    return time.monotonic() + 5


@contextmanager
def exchange(directory: Path, deadline: float | None = None) -> Iterator[Exchange]:
    made = at_control(str(directory), soon() if deadline is None else deadline)
    try:
        yield made
    finally:
        made.close()


def test_an_answer_is_read_line_by_line_however_it_comes(tmp_path: Path) -> None:
    parts = (b"HTTP/1.1 2", b"00 OK\r\nx: y\r", b"\n\r\nfirst\nsec", b"ond\nth", b"ird")
    with answering(at_path(tmp_path / "control"), *parts) as heard, exchange(tmp_path) as one:
        assert one.ask("POST", "/restart") == 200
        assert list(one.lines()) == ["first", "second", "third"]
    assert heard == [b"POST /restart HTTP/1.0\r\nhost: agent\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"]


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", b"SSH-2.0 200 x\r\n\r\n", b"HT"]
)
def test_what_is_no_answer_is_an_os_error(answer: bytes, tmp_path: Path) -> None:
    with answering(at_path(tmp_path / "control"), answer), exchange(tmp_path) as one:  # noqa: SIM117
        with pytest.raises(ConnectionError, match="cannot be parsed"):
            one.ask("GET", "/")


def test_an_agent_that_says_nothing_is_not_waited_for_beyond_the_deadline(tmp_path: Path) -> None:
    with at_path(tmp_path / "control"), exchange(tmp_path, time.monotonic() + 0.05) as one:  # noqa: SIM117
        with pytest.raises(TimeoutError):
            one.ask("GET", "/")


def test_what_comes_after_the_deadline_is_not_read(tmp_path: Path) -> None:
    with answering(at_path(tmp_path / "control"), b"HTTP/1.1 200 OK\r\n\r\n"), exchange(tmp_path) as one:
        one.ask("GET", "/")
        one.deadline = time.monotonic()
        with pytest.raises(TimeoutError):
            one.text()


def test_no_request_is_sent_after_the_deadline(tmp_path: Path) -> None:
    """The agent would execute it, and its client has given up."""
    with answering(at_path(tmp_path / "control"), b"") as heard, exchange(tmp_path) as one:
        one.deadline = time.monotonic()
        with pytest.raises(TimeoutError):
            one.ask("POST", "/drain")
    assert heard == [b""]


def test_a_status_without_a_reason_and_headers_is_one(tmp_path: Path) -> None:
    with answering(at_path(tmp_path / "control"), b"HTTP/1.0 202\r\n\r\n"), exchange(tmp_path) as one:
        assert one.ask("POST", "/drain") == 202


def test_the_listening_process_is_known(tmp_path: Path) -> None:
    with at_path(tmp_path / "control"), exchange(tmp_path) as one:
        assert (one.peer, one.user) == (os.getpid(), os.getuid())


def test_what_steers_a_terminal_does_not_get_there(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\n\x1b[2Jyou are\x07 root\tnow\x9b\n"
    with answering(at_path(tmp_path / "control"), answer), exchange(tmp_path) as one:
        one.ask("GET", "/")
        assert one.text() == "?[2Jyou are? root\tnow\N{REPLACEMENT CHARACTER}"


def test_a_socket_without_an_agent_is_reported(tmp_path: Path) -> None:
    at_path(tmp_path / "control").close()
    with pytest.raises(NoAgent, match="it is no agent's run directory"):
        at_control(str(tmp_path), soon())


def test_a_path_that_is_too_long_is_no_agent(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match="too long"):
        at_control(str(tmp_path / ("x" * 100)), soon())


def test_without_permission_the_message_names_the_user_to_run_as(ordinary: Path) -> None:
    with at_path(ordinary / "control"):
        (ordinary / "control").chmod(0)
        with pytest.raises(MachineError, match="permission denied; run this as root or as the agent's user") as caught:
            at_control(str(ordinary), soon())
    assert not isinstance(caught.value, NoAgent)


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_an_agent_of_a_stranger_is_not_believed(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    os.seteuid(65534)
    listener.listen()
    os.seteuid(0)
    with listener, pytest.raises(MachineError, match="uid 65534") as caught:
        at_control(str(tmp_path), soon())
    assert not isinstance(caught.value, NoAgent)


def test_a_connection_may_be_closed_twice(tmp_path: Path) -> None:
    with at_path(tmp_path / "control"), exchange(tmp_path) as one:
        one.close()


def test_without_a_deadline_an_answer_is_read_all_the_same(tmp_path: Path) -> None:
    with answering(at_path(tmp_path / "control"), b"HTTP/1.1 200 OK\r\n\r\nwell\n"):
        one = at_control(str(tmp_path), None)
        assert (one.ask("GET", "/"), one.text()) == (200, "well")
        one.close()


def test_an_answer_without_text_is_an_empty_line(tmp_path: Path) -> None:
    with answering(at_path(tmp_path / "control"), b"HTTP/1.1 200 OK\r\n\r\n\n \n\n"), exchange(tmp_path) as one:
        one.ask("GET", "/")
        assert one.text() == ""


# An agent that replaces itself


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(client, "time", made)
    return made


@pytest.fixture
def upgrading(tmp_path: Path) -> Path:
    """A run directory whose last agent lives, and does not listen."""
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    return tmp_path


def test_an_agent_that_executes_its_new_program_is_waited_for(upgrading: Path, clock: Clock) -> None:
    with ExitStack() as stack:

        def listen() -> None:
            if len(clock.slept) == 3:
                stack.enter_context(at_path(upgrading / "control"))

        clock.on_sleep = listen
        at_control(str(upgrading), None).close()
    assert clock.slept == [0.02, 0.02, 0.02]


@pytest.mark.parametrize(("deadline", "waited"), [(None, 5.0), (1001.0, 1.0), (9000.0, 5.0)])
def test_it_is_waited_for_some_seconds_and_never_beyond_the_deadline(
    deadline: float | None, waited: float, upgrading: Path, clock: Clock
) -> None:
    with pytest.raises(NoAgent):
        at_control(str(upgrading), deadline)
    assert clock.now - 1000.0 == pytest.approx(waited, abs=0.03)


def test_an_agent_that_is_gone_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "lock").write_text("")
    with pytest.raises(NoAgent):
        at_control(str(tmp_path), None)
    assert clock.slept == []


def test_at_the_very_deadline_the_time_is_over(tmp_path: Path, clock: Clock) -> None:
    with at_path(tmp_path / "control"), exchange(tmp_path, clock.now + 1) as one:
        clock.now += 1
        with pytest.raises(TimeoutError):
            one.text()


# Pages


def test_a_page_is_asked_for_over_tcp() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz/ready?verbose"
    with answering(listener, b"HTTP/1.1 503 no\r\n\r\nno epoch serves\n") as heard:
        one, host, path = at_url(url, soon())
        assert one.ask("GET", path, host) == 503
        assert one.text() == "no epoch serves"
        one.close()
    assert heard[0].startswith(b"GET /healthz/ready?verbose HTTP/1.1\r\nhost: 127.0.0.1\r\n")


def test_a_page_without_a_server_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        at_url(f"http://127.0.0.1:{port}", soon())


def addresses(*ports: int) -> Callable[..., list[tuple[object, ...]]]:
    """Return a resolver that gives these ports of loopback for any name."""

    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]

    return resolve


def test_of_several_addresses_the_first_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        alive = listener.getsockname()[1]
        monkeypatch.setattr(_socket, "getaddrinfo", addresses(dead, alive, dead))
        one, host, path = at_url("http://page.example/x", soon())
        one.close()
        assert (host, path) == ("page.example", "/x")
        listener.settimeout(1)
        listener.accept()[0].close()


@pytest.mark.parametrize("ports", [(), (1,)])
def test_a_name_without_an_address_that_answers_is_an_os_error(
    ports: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_socket, "getaddrinfo", addresses(*ports))
    with pytest.raises(ConnectionRefusedError):
        at_url("http://page.example/x", soon())


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:15020/healthz/ready", ("127.0.0.1", 15020, "/healthz/ready")),
        ("http://localhost:1", ("localhost", 1, "/")),
        ("http://localhost/x", ("localhost", 80, "/x")),
        ("http://[::1]:15020/a/b?c=d", ("::1", 15020, "/a/b?c=d")),
        ("http://[::1]/", ("::1", 80, "/")),
        ("http://a:080/?x://y:1", ("a", 80, "/?x://y:1")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, int, str]) -> None:
    assert split(url) == parts


@pytest.mark.parametrize("url", ["", "127.0.0.1:15020", "https://a/", "http://", "http://:80/", "http://a:b/", "http://ä/",
                                 "http://a/\r\nx: y"])  # fmt: skip
def test_what_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError, match=r"write it like http://127\.0\.0\.1:15020/healthz/ready"):
        split(url)


@given(st.text(max_size=30))
def test_whatever_is_written_is_a_url_or_refused(url: str) -> None:
    try:
        host, port, path = split(f"http://{url}")
    except UsageError:
        return
    assert host
    assert port >= 0
    assert path.startswith("/")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "it does not answer in time"),
        (ConnectionResetError(), "it closed the connection"),
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (ConnectionError("the answer cannot be parsed"), "the answer cannot be parsed"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long"),
        (OSError(5, "Input/output error"), "input/output error"),
        (OSError(5, "X"), "X"),
        (OSError(), ""),
    ],
)
def test_an_error_is_explained(error: OSError, said: str) -> None:
    assert explain(error) == said
