import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.host.inherited_sockets import address_of

# It stands for systemd first: puts what it was given from descriptor 3 on, and names itself as the heir.
HEIR = """
import fcntl, json, os, sys
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[1].split(",")]
for number, each in enumerate(given, 3):
    os.dup2(each, number)
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"] or str(os.getpid())
from agent.host.inherited_sockets import address_of, take_inherited
heirs = take_inherited()
print(json.dumps({
    "found": [address_of(heir.descriptor) for heir in heirs],
    "shared": [os.get_inheritable(heir.descriptor) or os.get_blocking(heir.descriptor) for heir in heirs],
    "left": [name for name in os.environ if name.startswith("LISTEN_")],
    "again": len(take_inherited()),
}))
"""


@pytest.fixture
def three() -> Iterator[list[socket.socket]]:
    """Listeners at three addresses."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]


def claimed(listeners: list[socket.socket], names: str, pid: str = "") -> dict[str, Any]:
    numbers = [each.fileno() for each in listeners]
    variables = {"LISTEN_PID": pid, "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
    command = [sys.executable, "-c", HEIR, ",".join(map(str, numbers))]
    done = subprocess.run(
        command, env={**os.environ, **variables}, pass_fds=numbers, capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def addresses(*listeners: socket.socket) -> list[str]:
    return [f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in listeners]


def test_sockets_of_systemd_are_received_once_and_only_by_their_receiver(three: list[socket.socket]) -> None:
    result = claimed(three, "unknown:unknown:unknown")
    assert result == {"found": addresses(*three), "shared": [False] * 3, "left": [], "again": 0}


def test_stored_sockets_follow_those_of_a_unit_in_the_order_of_their_workers(three: list[socket.socket]) -> None:
    result = claimed(three, "agent.socket:0001.x-1:0000.x-2")
    assert result["found"] == addresses(three[0], three[2], three[1])


def test_a_socket_of_a_unit_that_was_stored_as_well_is_one(three: list[socket.socket]) -> None:
    result = claimed([three[0], three[1], three[0]], "agent.socket:agent.socket:0000.x")
    assert result["found"] == addresses(three[0], three[1])


def test_fewer_names_than_sockets_are_enough(three: list[socket.socket]) -> None:
    assert claimed(three, "")["found"] == addresses(*three)


def test_what_was_meant_for_another_process_is_left_alone(three: list[socket.socket]) -> None:
    result = claimed(three, "a:b:c", pid="1")
    assert (result["found"], result["left"]) == ([], [])


def test_a_descriptor_that_is_no_socket_has_no_address_and_stays_the_callers() -> None:
    """systemd may pass a pipe or a file as well; nothing is left open for it."""
    descriptor = os.memfd_create("file")
    try:
        assert address_of(descriptor) is None
        os.fstat(descriptor)
    finally:
        os.close(descriptor)
