"""The effect of the admin interfaces' POST requests on listeners and clients, with both proxies: Envoy's behaviour."""

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.bootstrap import Json, http, listener
from tests.system.eventually import PATIENCE, eventually
from tests.system.proxies import KINDS, Proxy, Running, needed, running
from tests.system.room import Room
from tests.system.wire import Failed, Target, connect, exchange, tls_context


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return needed(request.param)


class Two:
    """An outbound and an inbound listener."""

    def __init__(self, room: Room, proxy: Proxy) -> None:
        self.room, self.proxy = room, proxy
        self.outbound, self.inbound = (Target("127.0.0.1", room.port()) for _ in range(2))

    def tree(self) -> Json:
        """Return the bootstrap."""
        made = [listener("out", "127.0.0.1", self.outbound.port, [{"filters": [http("ok")]}])]
        made.append(listener("in", "127.0.0.1", self.inbound.port, [{"filters": [http("ok")]}]))
        made[1]["traffic_direction"] = "INBOUND"
        return {"static_resources": {"listeners": made}}

    def states(self) -> tuple[str, str]:
        """Return how both listeners treat a new client."""
        return state(self.outbound), state(self.inbound)


def state(target: Target) -> str:
    """Return how a listener treats a new client: `serves`, `asks to leave`, or `refuses`."""
    try:
        with connect(target, tls_context()) as sock:
            return answered(sock)
    except Failed as failed:
        return "refuses" if failed.reason == "refused" else f"fails: {failed}"


def answered(sock: socket.socket) -> str:
    """Make a request on a connection that could be kept, and return whether it is kept."""
    return "asks to leave" if exchange(sock, last=False).closes else "serves"


SERVES, LEAVE, REFUSES = "serves", "asks to leave", "refuses"
BUTTONS = {
    "/healthcheck/fail": ((LEAVE, LEAVE), None, (LEAVE, LEAVE)),
    "/drain_listeners?inboundonly": ((SERVES, REFUSES), None, (SERVES, LEAVE)),
    "/drain_listeners?skip_exit": ((LEAVE, LEAVE), None, (LEAVE, LEAVE)),
    "/drain_listeners?graceful&skip_exit": ((LEAVE, LEAVE), None, (LEAVE, LEAVE)),
    "/drain_listeners?graceful": ((LEAVE, LEAVE), (REFUSES, REFUSES), (LEAVE, LEAVE)),
    "/drain_listeners?graceful&inboundonly": ((SERVES, LEAVE), (SERVES, REFUSES), (SERVES, LEAVE)),
    "/drain_listeners": ((REFUSES, REFUSES), None, (LEAVE, LEAVE)),
}


@pytest.mark.parametrize("button", BUTTONS)
def test_a_button_does_what_envoys_does(room: Room, proxy: Proxy, button: str) -> None:
    """At once, after the drain time if that matters, and for a client that was connected before."""
    at_once, later, before = BUTTONS[button]
    two = Two(room, proxy)
    with (
        running(room, proxy, two.tree(), draining_for(600)) as alone,
        connect(two.outbound, tls_context()) as out,
        connect(two.inbound, tls_context()) as into,
    ):
        assert (answered(out), answered(into)) == (SERVES, SERVES)
        reply = alone.console.post(button)
        assert (reply.status, reply.text) == (200, "OK\n")
        eventually(lambda: two.states() == at_once, what=f"{at_once}")
        assert (answered(out), answered(into)) == before
        tells(alone, button, at_once)
    if later:
        with running(room, proxy, two.tree(), draining_for(1)) as alone:
            alone.console.post(button)
            eventually(lambda: two.states() == later, what=f"{later}")
            tells(alone, button, later)


def draining_for(seconds: int) -> list[str]:
    """Return the options of a proxy that drains for this long, at once."""
    return ["--drain-time-s", str(seconds), "--drain-strategy", "immediate"]


def tells(alone: Running, button: str, states: tuple[str, str]) -> None:
    """Check the listeners' states in the admin interface."""
    ready = alone.console.ask("/ready")
    assert (ready.status, ready.text) == ((503, "DRAINING\n") if button == "/healthcheck/fail" else (200, "LIVE\n"))
    closed = states.count(REFUSES)
    counted = {"listener_stopped": closed, "total_listeners_active": 2, "total_listeners_draining": 0}

    def told() -> bool:
        numbers = alone.console.numbers("listener_manager.")
        seen = {name: numbers.get(name) for name in counted}
        assert seen == counted
        return True

    eventually(told, what="the listeners are counted")


def test_health_that_was_failed_can_be_mended(room: Room, proxy: Proxy) -> None:
    two = Two(room, proxy)
    with running(room, proxy, two.tree()) as alone:
        alone.console.post("/healthcheck/fail")
        eventually(lambda: two.states() == (LEAVE, LEAVE))
        alone.console.post("/healthcheck/ok")
        eventually(lambda: two.states() == (SERVES, SERVES))
        assert alone.console.ready()


Ending = Callable[[Running], object]
ENDINGS: dict[str, Ending] = {
    "/quitquitquit": lambda alone: alone.console.post("/quitquitquit"),
    "SIGTERM": lambda alone: alone.process.send_signal(signal.SIGTERM),
    "SIGINT": lambda alone: alone.process.send_signal(signal.SIGINT),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_proxy_that_is_terminated_exits_with_0_and_soon_with_a_client_connected(
    room: Room, proxy: Proxy, ending: str
) -> None:
    two = Two(room, proxy)
    with running(room, proxy, two.tree()) as alone, connect(two.outbound, tls_context()) as sock:
        assert answered(sock) == SERVES
        with suppress(OSError):
            ENDINGS[ending](alone)
        assert alone.process.wait(timeout=PATIENCE) == 0
        assert sock.recv(1) == b""


def test_the_admin_address_is_written_to_a_file(room: Room, proxy: Proxy) -> None:
    path = Path(room.directory / "admin")
    with running(room, proxy, Two(room, proxy).tree(), ["--admin-address-path", str(path)]) as alone:
        assert path.read_text(encoding="ascii") == f"127.0.0.1:{alone.console.port}"
