import array
import asyncio
import os
import select
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agent.host.processes import clean_environment
from agent.host.service_manager import ServiceManager

Talk = Callable[[ServiceManager], Awaitable[None]]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end of systemd's notification socket."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield made


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def said(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def told(talk: Talk) -> None:
    """Run a notification in a loop of its own; return the messages."""

    async def tell() -> None:
        service_manager = ServiceManager()
        try:
            await talk(service_manager)
        finally:
            service_manager.close()

    asyncio.run(tell())


def at_once(talk: Callable[[ServiceManager], None]) -> None:
    async def tell(service_manager: ServiceManager) -> None:
        talk(service_manager)

    told(tell)


def nothing(tell: ServiceManager) -> None:
    """Send no notification."""


def test_the_unit_becomes_active_once_and_each_status_is_sent_once(manager: socket.socket) -> None:
    def talk(tell: ServiceManager) -> None:
        tell.status("no epoch serves")
        tell.status("no epoch serves")
        tell.status("epoch 1 serves\nö")
        tell.ready()
        tell.ready()
        tell.stopping()
        tell.stopping()

    at_once(talk)
    assert said(manager) == [
        "STATUS=no epoch serves",
        "STATUS=epoch 1 serves ö",
        "READY=1",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=60000000",
        "STOPPING=1",
    ]


def test_a_reload_begins_once_with_its_time_and_ends_ready(manager: socket.socket) -> None:
    def talk(tell: ServiceManager) -> None:
        tell.reloading()
        tell.reloading()
        tell.ready()
        tell.ready()

    at_once(talk)
    up, began, ended = said(manager)
    words, _, time = began.rpartition("=")
    assert (up, words, ended) == ("READY=1", "RELOADING=1\nMONOTONIC_USEC", "READY=1")
    assert int(time) > 0


def test_systemd_waits_for_as_long_as_nothing_serves_and_no_longer(manager: socket.socket) -> None:
    def talk(tell: ServiceManager) -> None:
        tell.starting()
        tell.starting()
        tell.ready()
        tell.starting()

    at_once(talk)
    assert said(manager) == ["EXTEND_TIMEOUT_USEC=60000000", "READY=1"]


def test_the_watchdog_is_notified_only_while_the_loop_runs(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def talk(tell: ServiceManager) -> None:
        loop = asyncio.get_running_loop()
        assert tell._timers["watchdog"].when() <= loop.time() + 0.02, "half of what is allowed"
        assert manager.recv(64) == b"WATCHDOG_USEC=40000"
        for _ in range(3):
            assert await loop.sock_recv(manager, 64) == b"WATCHDOG=1"
        while select.select([manager], [], [], 0)[0]:
            manager.recv(64)  # a slow machine may have delayed the next one
        assert select.select([manager], [], [], 0.1)[0] == [], "the loop did not turn"

    told(talk)


def test_a_program_that_this_one_becomes_gets_a_minute_to_begin(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    at_once(ServiceManager.executing)
    at_once(nothing)
    assert said(manager) == [
        "WATCHDOG_USEC=10000000",
        "WATCHDOG=1",
        "WATCHDOG_USEC=60000000\nWATCHDOG=1",
        "WATCHDOG_USEC=10000000",
        "WATCHDOG=1",
    ]


@pytest.mark.parametrize(("span", "pid"), [("40000", "1"), ("0", None), ("", None), ("soon", None)])
def test_without_a_watchdog_there_are_no_wake_ups(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, span: str, pid: str | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", span)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    at_once(nothing)
    assert said(manager) == []


def test_a_socket_that_listens_is_stored_and_let_go_by_its_name(
    manager: socket.socket, listener: socket.socket
) -> None:
    def talk(tell: ServiceManager) -> None:
        tell.store("0000.tcp://127.0.0.1:1", listener.fileno())
        tell.remove("0000.tcp://127.0.0.1:1")
        tell.remove("0000.tcp://127.0.0.1:1")

    at_once(talk)
    words, beside, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(4))
    (given,) = array.array("i", beside[0][2])
    assert os.path.sameopenfile(given, listener.fileno())
    os.close(given)
    stored, _, name = words.decode().rpartition("=")
    assert stored == "FDSTORE=1\nFDNAME"
    assert name.startswith("0000.")
    assert not {":", "/"} & set(name)
    assert said(manager) == [f"FDSTOREREMOVE=1\nFDNAME={name}"]


def test_another_socket_takes_the_place_of_the_one_of_that_name(
    manager: socket.socket, listener: socket.socket
) -> None:
    def talk(tell: ServiceManager) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            for each in (listener, listener, other):
                tell.store("0000.x", each.fileno())

    at_once(talk)
    words = [each.partition("=")[0] for each in said(manager)]
    assert words == ["FDSTORE", "FDSTORE", "FDSTOREREMOVE", "FDSTORE"]


def test_sockets_stored_by_an_earlier_agent_are_removed_and_stored_again(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", "agent.socket:0001.x:0000.x")
    at_once(nothing)
    assert said(manager) == ["FDSTOREREMOVE=1\nFDNAME=0001.x", "FDSTOREREMOVE=1\nFDNAME=0000.x"]


def test_similar_names_remain_distinct(manager: socket.socket, listener: socket.socket) -> None:
    def talk(tell: ServiceManager) -> None:
        for name in ("unix:///a/b", "unix:///a:b", "x" * 300, "x" * 299):
            tell.store(name, listener.fileno())

    at_once(talk)
    names = {each.rpartition("=")[2] for each in said(manager)}
    assert len(names) == 4
    assert max(map(len, names)) <= 255


def test_a_socket_that_does_not_listen_is_not_stored(manager: socket.socket) -> None:
    with socket.socket() as bound, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        bound.bind(("127.0.0.1", 0))
        for each in (bound, datagrams):
            at_once(lambda tell, each=each: tell.store("x", each.fileno()))  # type: ignore[misc]
    assert said(manager) == []


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1")

    def talk(tell: ServiceManager) -> None:
        assert not tell.is_there
        tell.status("x")
        tell.starting()
        tell.ready()
        tell.store("x", listener.fileno())
        tell.stopping()

    at_once(talk)


def test_a_systemd_that_went_away_is_no_trouble(manager: socket.socket) -> None:
    def talk(tell: ServiceManager) -> None:
        manager.close()
        tell.status("x")
        tell.ready()

    at_once(talk)


def test_the_socket_is_for_the_agent_alone_and_for_what_it_becomes(manager: socket.socket) -> None:
    at_once(nothing)
    assert "NOTIFY_SOCKET" in os.environ
    assert "NOTIFY_SOCKET" not in clean_environment()
