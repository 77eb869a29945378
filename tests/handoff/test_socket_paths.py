import socket
from pathlib import Path

import pytest

from agent.core.errors import UsageError
from agent.handoff.channel import bind_datagram
from agent.handoff.socket_paths import BASE_ID_LIMIT, PATH_LIMIT, SocketPaths, check_room


def test_the_names_are_those_of_restart_epoch_1_and_its_neighbours() -> None:
    names = SocketPaths(Path("/run/a/7"), 12)
    assert names.prefix == Path("/run/a/7/hr")
    assert names.agent_as_parent == Path("/run/a/7/hr_parent_120")
    assert names.epoch_as_parent == Path("/run/a/7/hr_parent_121")
    assert names.epoch_as_child == Path("/run/a/7/hr_child_121")
    assert names.agent_as_child == Path("/run/a/7/hr_child_122")
    assert names.udp_epoch_as_child == Path("/run/a/7/hr_udp_child_121")
    assert names.udp_agent_as_child == Path("/run/a/7/hr_udp_child_122")


def test_no_base_id_wraps_in_32_bits() -> None:
    assert BASE_ID_LIMIT * 10 + 2 < 2**31


def directory_of(length: int) -> Path:
    return Path("/" + "x" * (length - 1))


def longest_that_fits() -> int:
    for length in range(1, PATH_LIMIT):
        try:
            check_room(directory_of(length))
        except UsageError:
            return length - 1
    raise AssertionError("no directory is too long")


def test_a_run_directory_that_is_too_long_is_refused_with_the_excess() -> None:
    length = longest_that_fits()
    with pytest.raises(UsageError, match=rf"3 bytes too long .* \(at most {length}\).* --run-dir"):
        check_room(directory_of(length + 3))


def test_bytes_count_and_not_letters() -> None:
    letters = longest_that_fits() - 1
    check_room(Path("/" + "x" * letters))
    with pytest.raises(UsageError):
        check_room(Path("/" + "é" * letters))


def test_in_the_longest_directory_every_socket_of_the_largest_epoch_can_be_bound(tmp_path: Path) -> None:
    length = longest_that_fits()
    run_directory = tmp_path / ("x" * (length - len(str(tmp_path)) - 1))
    assert len(str(run_directory)) == length
    home = run_directory / str(2**32 - 1)
    home.mkdir(parents=True)
    proxys_longest = home / f"hr_udp_parent_{BASE_ID_LIMIT * 10 + 1}"
    assert len(str(proxys_longest)) == 107, "what sun_path holds before its final zero"
    names = SocketPaths(home, BASE_ID_LIMIT)
    for path in (names.agent_as_parent, names.agent_as_child, names.udp_agent_as_child):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as proxys:
            proxys.bind(str(path))
    for path in (names.agent_as_parent, names.agent_as_child, names.udp_agent_as_child):
        bind_datagram(path).close()  # first under a temporary name, which is longer
