"""One epoch's link: what it opens, whom it accepts, how an adopted epoch goes on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.handoff.segment import Segment
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from agent.proxies.envoy.hot_restart_link import HotRestartLink
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.interface import Admin
from agent.proxies.link import EpochContext, LinkEvents
from tests.processes.fakes import FakeAdmin

HERE = ListenAddress("tcp://127.0.0.1:1")
UDP = """
static_resources:
  listeners:
  - address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}
"""


class Owner:
    """Records what a link reports."""

    def __init__(self) -> None:
        self.served = 0
        self.events = LinkEvents(
            reached_gate=lambda: None,
            serves=self._serves,
            held=lambda _: None,
            broken=lambda _: None,
            get_socket=lambda _: None,
            sockets=dict,
            bound=lambda _, __: None,
            is_serving=lambda: False,
        )

    def _serves(self) -> None:
        self.served += 1


def arguments(names: SocketPaths, copy: int, extra: str | None, overlap: int, drains: bool) -> list[str]:
    return [str(names.base_id), str(copy), str(extra), str(overlap), str(drains)]


def context(home: Path, places: frozenset[ListenAddress] | None = None, text: str = "{}") -> EpochContext:
    configuration = Envoy(Flags(), 1.0).configuration(text, "x.yaml")
    return EpochContext(4, home, None, configuration, Segment(4711), places)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "4"
    path.mkdir()
    yield path
    assert not any(each.name.startswith(("hr_", "gate")) for each in path.iterdir())


def link(home: Path, owner: Owner, places: frozenset[ListenAddress] | None = None, text: str = "{}") -> HotRestartLink:
    return HotRestartLink(context(home, places, text), owner.events, FakeAdmin(home / "admin"), arguments)


async def test_nothing_is_known_of_an_epoch_whose_link_is_not_open(home: Path) -> None:
    made = link(home, Owner())
    assert (made.asked, made.bound_itself, made.is_open) == (set(), set(), False)
    assert await made.duplicate(HERE) is None
    assert made.workers() == ()
    made.stop_accepting()
    made.clear()
    await made.close()


async def test_the_command_line_names_its_sockets_and_inherits_nothing(home: Path) -> None:
    made = link(home, Owner())
    await made.open(0, None, serves=False)
    launch = made.launch(7, "extra", 3)
    assert launch.arguments == ["4711", "7", "extra", "3", "False"]
    assert (launch.environment, launch.descriptors) == ({}, frozenset())
    made.clear()
    await made.close()


async def test_it_accepts_messages_of_its_process_only(home: Path) -> None:
    made = link(home, Owner(), text=UDP)
    await made.open(0, None, serves=False)
    made.attend(os.getpid(), lambda _: None)
    assert made.parent is not None
    assert made.child is not None
    assert made.relay is not None
    pids = [made.parent.channel.pid, made.child.channel.pid, made.gate.pid, made.admin.pid, made.relay.pid]
    assert pids == [os.getpid()] * 5
    made.clear()
    await made.close()


async def test_an_adopted_epoch_may_have_bound_any_of_its_addresses(home: Path) -> None:
    made = link(home, Owner(), frozenset({HERE}))
    await made.open(0, None, serves=True)
    assert made.asked == made.bound_itself == {HERE}
    made.clear()
    await made.close()


@pytest.mark.parametrize(
    ("answers", "goes_on", "served"),
    [
        ({"waits_at_gate": False, "is_live": True}, True, 1),
        ({"waits_at_gate": True, "is_live": False}, False, 0),
    ],
)
async def test_an_adopted_epoch_goes_on_unless_its_request_is_lost(
    home: Path,
    answers: dict[str, object],
    goes_on: bool,
    served: int,
) -> None:
    owner = Owner()
    made = link(home, owner, frozenset())
    await made.open(0, None, serves=False)
    fake: Admin = made.admin
    assert isinstance(fake, FakeAdmin)
    fake.answers |= answers
    assert await made.resume() is goes_on
    assert owner.served == served
    made.clear()
    await made.close()


async def test_an_epoch_that_is_gone_is_not_asked_for_ever(home: Path) -> None:
    made = link(home, Owner(), frozenset())
    await made.open(0, None, serves=False)
    assert isinstance(made.admin, FakeAdmin)
    made.admin.answers["waits_at_gate"] = MachineError("busy")
    made.clear()
    assert await made.resume() is True
    await made.close()
