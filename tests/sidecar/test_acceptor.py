import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from agent.sidecar.acceptor import Acceptor
from tests.sidecar.leaping import now
from tests.sidecar.wires import turns

pytestmark = pytest.mark.usefixtures("leaps")


class Door(socket.socket):
    """A listening Unix socket whose next calls of accept may fail."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.bind("")
        self.listen(200)
        self.errors: list[int] = []
        self.asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.errors:
            raise OSError(self.errors.pop(0), "told by the test")
        return super().accept()

    def clients(self, count: int) -> list[socket.socket]:
        made = [socket.socket(socket.AF_UNIX) for _ in range(count)]
        for each in made:
            each.connect(self.getsockname())
        return made


class Stand:
    def __init__(self, *doors: Door, accepted: Callable[[socket.socket], None] | None = None) -> None:
        self.got: list[socket.socket] = []
        self.full = 0
        self.acceptor = Acceptor(doors, accepted or self.got.append, self._count)

    def _count(self) -> None:
        self.full += 1

    def close(self, *more: list[socket.socket]) -> None:
        self.acceptor.close()
        for each in (*self.got, *(one for group in more for one in group)):
            each.close()


async def test_connections_of_every_socket_are_accepted_and_do_not_block() -> None:
    doors = [Door(), Door()]
    stand = Stand(*doors)
    clients = [each for one in doors for each in one.clients(3)]
    await turns()
    assert len(stand.got) == 6
    assert not any(each.getblocking() for each in stand.got)
    stand.close(clients)


async def test_other_callbacks_run_after_32_connections() -> None:
    door = Door()
    clients = door.clients(70)
    stand = Stand(door)
    seen = []
    for _ in range(4):
        await asyncio.sleep(0)
        seen.append(len(stand.got))
    assert sorted({*seen} - {0}) == [32, 64, 70]
    stand.close(clients)


async def test_a_connection_that_failed_does_not_stop_the_next() -> None:
    door = Door()
    door.errors = [errno.ECONNABORTED, errno.EPROTO]
    clients = door.clients(1)
    stand = Stand(door)
    await turns(3)
    assert (len(stand.got), stand.full) == (1, 0)
    stand.close(clients)


async def test_errors_without_end_do_not_hold_the_loop() -> None:
    door = Door()
    door.errors = [errno.ECONNABORTED] * 1000
    clients = door.clients(1)
    stand = Stand(door)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < door.asked <= 64
    stand.close(clients)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_a_free_descriptor_it_pauses_for_a_tenth_of_a_second(error: int) -> None:
    door = Door()
    door.errors = [error, error]
    clients = door.clients(1)
    stand = Stand(door)
    await turns()
    assert (door.asked, stand.full, stand.got) == (1, 1, [])
    await asyncio.sleep(0.11)
    assert (door.asked, stand.full, stand.got) == (2, 2, [])
    await asyncio.sleep(0.1)
    assert (stand.full, len(stand.got)) == (2, 1)
    assert now() == pytest.approx(0.21)
    stand.close(clients)


async def test_a_pause_is_a_tenth_of_a_second_for_every_socket() -> None:
    doors = [Door(), Door()]
    stand = Stand(*doors)
    doors[0].errors = [errno.EMFILE]
    clients = doors[0].clients(1)
    await turns()
    clients += doors[1].clients(1)
    await asyncio.sleep(0.09)
    assert (stand.full, stand.got) == (1, [])
    await asyncio.sleep(0.02)
    assert len(stand.got) == 2
    stand.close(clients)


async def test_closing_during_a_pause_opens_nothing_again() -> None:
    door = Door()
    door.errors = [errno.EMFILE]
    clients = door.clients(1)
    stand = Stand(door)
    await turns()
    stand.acceptor.close()
    assert not [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    await asyncio.sleep(1)
    assert (door.asked, stand.got) == (1, [])
    assert door.fileno() == -1
    stand.close(clients)


async def test_closing_stops_at_once_in_the_middle_of_a_burst() -> None:
    door = Door()
    clients = door.clients(5)
    got: list[socket.socket] = []

    def accepted(connected: socket.socket) -> None:
        got.append(connected)
        stand.acceptor.close()

    stand = Stand(door, accepted=accepted)
    await turns()
    assert (len(got), door.asked) == (1, 1)
    stand.close(clients, got)


async def test_closing_closes_every_socket_and_leaves_no_watch() -> None:
    doors = [Door(), Door()]
    numbers = [each.fileno() for each in doors]
    stand = Stand(*doors)
    stand.acceptor.close()
    assert [each.fileno() for each in doors] == [-1, -1]
    assert not any(asyncio.get_running_loop().remove_reader(number) for number in numbers)
    stand.acceptor.close()


async def test_a_connection_that_another_process_accepted_is_no_error() -> None:
    door = Door()
    stand = Stand(door)
    door.errors = [errno.EAGAIN]
    clients = door.clients(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stand.full == 0
    await turns()
    assert len(stand.got) == 1
    stand.close(clients)
