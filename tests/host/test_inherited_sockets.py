import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.host import inherited_sockets
from agent.host.inherited_sockets import OWN, InheritedSocket, address_of, pass_on_exec, take_inherited

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


# In this process: the descriptors are moved to where systemd would have put them.

FIRST = 300


@pytest.fixture
def from_systemd(three: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Have three listeners at descriptors 300 to 302, as if this process were started with them."""
    monkeypatch.setattr(inherited_sockets, "_FIRST", FIRST)
    for number, each in enumerate(three, FIRST):
        os.dup2(each.fileno(), number, inheritable=True)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", "a.socket:b.socket:c.socket")
    yield three
    for number in range(FIRST, FIRST + 3):
        with suppress(OSError):
            os.close(number)


def taken() -> list[int]:
    return [each.descriptor for each in take_inherited()]


def test_each_descriptor_of_systemd_is_taken_without_a_name(from_systemd: list[socket.socket]) -> None:
    assert take_inherited() == [InheritedSocket(number, "") for number in (300, 301, 302)]
    assert [address_of(number) for number in (300, 301, 302)] == addresses(*from_systemd)
    assert not any(os.get_inheritable(number) or os.get_blocking(number) for number in (300, 301, 302))
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    assert taken() == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LISTEN_PID", "1"),
        ("LISTEN_PID", ""),
        ("LISTEN_PID", "x"),
        ("LISTEN_FDS", ""),
        ("LISTEN_FDS", "x"),
        ("LISTEN_FDS", "-3"),
        ("LISTEN_FDS", "0"),
    ],
)
def test_descriptors_for_another_process_or_of_no_number_are_left(
    from_systemd: list[socket.socket], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert taken() == []
    assert os.get_inheritable(300)
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("names", ["", "a.socket", "a:b:c:d:e", ":::::"])
def test_names_may_be_missing_or_too_many(
    from_systemd: list[socket.socket], monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    assert taken() == [300, 301, 302]
    monkeypatch.delenv("LISTEN_FDNAMES", raising=False)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert taken() == [300, 301, 302]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("0001.x:b.socket:0000.y", [301, 302, 300]),
        ("0001.x:0000.y:0002.z", [301, 300, 302]),
        ("001.x:00001.y:a0000.z", [300, 301, 302]),
        ("0000x:0001.:b", [300, 302, 301]),
    ],
)
def test_stored_sockets_follow_those_of_a_unit_by_their_workers(
    from_systemd: list[socket.socket], monkeypatch: pytest.MonkeyPatch, names: str, order: list[int]
) -> None:
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    assert taken() == order


def test_a_duplicate_is_closed_and_a_descriptor_that_is_not_open_is_left_out(
    from_systemd: list[socket.socket],
) -> None:
    os.dup2(300, 301)
    os.close(302)
    assert taken() == [300]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(301)


def test_what_is_passed_on_is_taken_by_its_name_once(
    three: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWN, raising=False)
    pass_on_exec({"tcp://a:1 (worker 0)": three[0].fileno(), "ж": three[1].fileno()})
    assert [os.get_inheritable(each.fileno()) for each in three] == [True, True, False]
    assert take_inherited() == [
        InheritedSocket(three[0].fileno(), "tcp://a:1 (worker 0)"),
        InheritedSocket(three[1].fileno(), "ж"),
    ]
    assert not any(os.get_inheritable(each.fileno()) for each in three)
    assert take_inherited() == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '{"a": "x"}', '{"a": null}', '{"a": 987654}', '{"a": [3]}', '{"a": 1e30}']
)
def test_an_inheritance_that_cannot_be_read_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN, text)
    assert take_inherited() == []
    assert OWN not in os.environ


def test_only_a_listening_stream_socket_has_an_address(tmp_path: Path) -> None:
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert (address_of(idle.fileno()), address_of(datagrams.fileno())) == (None, None)
    with (tmp_path / "file").open("w") as file:
        assert address_of(file.fileno()) is None
    assert address_of(987_654) is None
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        assert address_of(six.fileno()) == f"tcp://[::1]:{six.getsockname()[1]}"


@pytest.mark.parametrize(
    ("name", "address"),
    [("{}/web", "unix://{}/web"), ("\0web-{}", "unix://@web-{}"), (b"\0\xff\xfe", None)],
    ids=["path", "abstract", "no text"],
)
def test_a_unix_socket_has_its_path_or_name(name: str | bytes, address: str | None, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name.format(tmp_path) if isinstance(name, str) else name)
        made.listen()
        found = address_of(made.fileno())
    assert found == (None if address is None else address.format(tmp_path))
