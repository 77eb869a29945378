import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from agent.core import events as on
from agent.core.policy import Policy
from agent.handoff.socket_store import ListenAddress
from agent.host.service_manager import ServiceManager
from agent.supervisor.summary import Summary
from agent.supervisor.systemd import SystemdNotifier, SystemdSocketStore
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, Scene

WEB = ListenAddress("tcp://127.0.0.1:80")


class Manager:
    """The service manager: it lists what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        def tell(*arguments: object) -> None:
            self.told.append((name, *arguments))

        return tell

    def news(self) -> list[tuple[object, ...]]:
        """Return what it was told since the last call."""
        told, self.told = self.told, []
        return told


class Unit(Scene):
    """A scene that notifies a service manager."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.manager = Manager()
        manager = cast("ServiceManager", self.manager)
        self.store = SystemdSocketStore(manager)
        self.summary = Summary(self.service)
        self.notifier = SystemdNotifier(self.core, manager, self.store, self.summary)

    def notify(self) -> list[tuple[object, ...]]:
        """Notify it of the current state; return the news, but for the sentence."""
        self.notifier.tell()
        (first, sentence), *rest = self.manager.news()
        assert (first, sentence) == ("status", self.summary.sentence())
        return rest


@pytest.fixture
def unit(time: Time) -> Iterator[Unit]:
    made = Unit()
    yield made
    made.store.close_all()


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A descriptor that may be duplicated."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.fileno()


# The notifications


def test_until_something_serves_the_unit_is_starting(unit: Unit) -> None:
    unit.begin("a")
    assert unit.notify() == [("starting",)]


def test_the_unit_is_ready_once_an_epoch_serves(unit: Unit) -> None:
    unit.serve("a")
    assert unit.notify() == [("ready",)]


def test_beside_a_candidate_the_unit_is_reloading(unit: Unit) -> None:
    unit.serve("a")
    unit.begin("b")
    assert unit.notify() == [("reloading",)]


def test_a_crash_makes_the_unit_start_again(unit: Unit) -> None:
    unit.serve("a")
    unit.exits(1)
    assert unit.notify() == [("starting",)]


def test_a_unit_that_stops_is_neither_ready_nor_starting_nor_reloading(unit: Unit) -> None:
    unit.serve("a")
    unit.core.handle(on.StopAsked(at=NOW))
    assert unit.notify() == []


def test_a_signal_to_restart_is_a_reload_before_the_candidate_is_there(unit: Unit) -> None:
    unit.serve("a")
    unit.notifier.restarting()
    assert unit.manager.news() == [("reloading",)]


def test_while_nothing_serves_a_restart_is_no_reload(unit: Unit) -> None:
    unit.notifier.restarting()
    assert unit.manager.news() == []


def test_while_the_agent_stops_a_restart_is_no_reload(time: Time) -> None:
    unit = Unit(Policy(drain_delay=5.0))
    unit.serve("a")
    unit.core.handle(on.StopAsked(at=NOW))
    assert unit.core.serving is not None
    unit.notifier.restarting()
    assert unit.manager.news() == []


@pytest.mark.parametrize("name", ["stopping", "executing", "close"])
def test_the_rest_is_passed_on(unit: Unit, name: str) -> None:
    getattr(unit.notifier, name)()
    assert unit.manager.news() == [(name,)]


# The sockets


def test_systemd_holds_what_the_store_holds(unit: Unit, descriptor: int) -> None:
    held = os.dup(descriptor)
    unit.store.put(WEB, held)
    assert unit.manager.news()[-1] == ("store", "0000.tcp://127.0.0.1:80", held)
    assert unit.store.get(WEB) == held


def test_a_socket_that_is_closed_is_closed_at_systemd_too(unit: Unit, descriptor: int) -> None:
    unit.store.put(WEB, os.dup(descriptor))
    unit.manager.news()
    unit.store.close(WEB)
    assert unit.manager.news() == [("remove", "0000.tcp://127.0.0.1:80")]
    assert unit.store.get(WEB) is None


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (ListenAddress("tcp://[::1]:443", worker=12), "0012.tcp://[::1]:443"),
        (ListenAddress("unix:///run/x.sock", worker=3), "0003.unix:///run/x.sock"),
        (ListenAddress("tcp://10.0.0.1:80", "/run/netns/blue"), "0000.tcp://10.0.0.1:80@/run/netns/blue"),
    ],
)
def test_a_name_at_systemd_tells_worker_address_and_namespace(
    unit: Unit, descriptor: int, place: ListenAddress, name: str
) -> None:
    unit.store.put(place, os.dup(descriptor))
    assert unit.manager.news()[-1][1] == name


def test_names_sort_the_workers_of_a_listener_by_number(unit: Unit, descriptor: int) -> None:
    for worker in (10, 9, 100):
        unit.store.put(ListenAddress(WEB.address, worker=worker), os.dup(descriptor))
    stored = [str(name) for what, name, *_ in unit.manager.news() if what == "store"]
    assert [name[:4] for name in sorted(stored)] == ["0009", "0010", "0100"]


def test_the_sockets_are_stored_again_once_each_epoch_that_serves(unit: Unit, descriptor: int) -> None:
    held = os.dup(descriptor)
    unit.store.put(WEB, held)
    unit.manager.news()
    unit.serve("a")
    again = ("store", "0000.tcp://127.0.0.1:80", held)
    assert unit.notify() == [("ready",), again]
    assert unit.notify() == [("ready",)]
    unit.serve("b")
    assert unit.notify() == [("ready",), again]


def test_a_place_whose_socket_was_closed_in_between_is_not_stored(unit: Unit) -> None:
    class Hollow(SystemdSocketStore):
        def get(self, place: ListenAddress) -> int | None:  # noqa: ARG002  # none has a socket
            return None

        def places(self) -> list[ListenAddress]:
            return [WEB]

    Hollow(cast("ServiceManager", unit.manager)).keep_again()
    assert unit.manager.news() == []


# With a real socket


async def test_systemd_receives_the_sentence_and_the_state(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        scene, manager = Scene(), ServiceManager()
        summary, store = Summary(scene.service), SystemdSocketStore(manager)
        notifier = SystemdNotifier(scene.core, manager, store, summary)
        scene.serve("a")
        notifier.tell()
        notifier.close()
        assert [systemd.recv(1000) for _ in range(2)] == [b"STATUS=epoch 1 serves", b"READY=1"]
