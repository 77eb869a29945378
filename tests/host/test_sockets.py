import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agent.core.errors import AddressHeld, MachineError, UsageError
from agent.host.sockets import (
    Endpoint,
    Holder,
    bind_for_proxy,
    check_free,
    find_holders,
    listen,
    may_bind_for_others,
)

STRANGER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2])), reuse_port=True) as made:
    print(made.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def stranger(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[int, int]]:
    """Let another process listen, with reuse_port; yield its pid and its port."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", STRANGER, host, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize(
    ("address", "endpoint", "text"),
    [
        ("tcp://1.2.3.4:5", Endpoint("1.2.3.4", 5), "1.2.3.4:5"),
        ("udp://[::]:5", Endpoint("::", 5), "[::]:5"),
        ("tcp://localhost:0", Endpoint("localhost", 0), "localhost:0"),
        ("unix:///run/x", Endpoint(path="/run/x"), "/run/x"),
        ("unix://@x", Endpoint(path="@x"), "@x"),
    ],
)
def test_an_address_is_read(address: str, endpoint: Endpoint, text: str) -> None:
    assert Endpoint.parse(address) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("address", ["tcp://", "tcp://a", "tcp://a:b", "tcp://a:70000", "tcp://:80", "tcp://[::]", "x"])
def test_what_is_no_address_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match="cannot use the address"):
        Endpoint.parse(address)


def test_an_abstract_name_begins_with_a_zero() -> None:
    assert Endpoint(path="@x").name == "\0x"
    assert Endpoint("::1", 5).family == socket.AF_INET6


def test_the_agent_listens() -> None:
    with listen(Endpoint("127.0.0.1", 0)) as made:
        socket.create_connection(made.getsockname()).close()
        assert not made.get_inheritable()


def test_a_held_port_is_named_with_its_holder() -> None:
    with stranger() as (pid, port), pytest.raises(AddressHeld, match=rf"127.0.0.1:{port}: .*\(pid {pid}\)"):
        listen(Endpoint("127.0.0.1", port))


def test_an_address_that_is_not_ours_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match="annot assign requested address"):
        listen(Endpoint("192.0.2.1", 0))


def test_a_socket_without_a_listener_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listen(Endpoint(path=str(path))) as made, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert made.family == socket.AF_UNIX


def test_a_socket_with_a_listener_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(Endpoint(path=str(path))), pytest.raises(MachineError, match="in use"):
        listen(Endpoint(path=str(path)))


def test_a_file_in_the_place_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(MachineError, match="in use"):
        listen(Endpoint(path=str(path)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_for_the_proxy_does_not_block_and_does_not_listen(host: str) -> None:
    """O_NONBLOCK is shared: a blocking one hangs the proxy's worker in accept."""
    with bind_for_proxy(Endpoint(host, 0), reuse_port=True, dual_stack=False) as made:
        assert not os.get_blocking(made.fileno())
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        made.listen()


@pytest.mark.parametrize("dual_stack", [False, True])
def test_both_families_share_a_socket_only_where_the_operator_wants_it(dual_stack: bool) -> None:
    with bind_for_proxy(Endpoint("::", 0), reuse_port=False, dual_stack=dual_stack) as made:
        assert bool(made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)) is not dual_stack
        assert not made.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


# Strangers


def test_a_stranger_is_found_though_he_would_share_the_port() -> None:
    with stranger() as (pid, port):
        with pytest.raises(AddressHeld, match=rf"\(pid {pid}\) already does; stop it or choose another address"):
            check_free(Endpoint("127.0.0.1", port), ours=[os.getpid()])
        check_free(Endpoint("127.0.0.1", port), ours=[pid])


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_stranger_on_every_address_holds_each(wildcard: str) -> None:
    with stranger(wildcard if wildcard == "0.0.0.0" else "0.0.0.0") as (_, port), pytest.raises(AddressHeld):
        check_free(Endpoint("127.0.0.1", port), ours=[])


def test_a_free_port_is_free_though_old_connections_linger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        name = made.getsockname()
        with socket.create_connection(name):
            made.accept()[0].close()
    check_free(Endpoint(*name), ours=[])


def test_a_stranger_at_the_same_port_of_another_address_holds_nothing() -> None:
    with stranger("127.0.0.2") as (_, port):
        check_free(Endpoint("127.0.0.1", port), ours=[])


@pytest.mark.parametrize("ours", ["127.0.0.1", "127.0.0.3"])
def test_an_epoch_at_the_same_port_of_another_address_does_not_hide_the_stranger(ours: str) -> None:
    """Addresses on both sides of the stranger's, since the result depends on the kernel's order."""
    with (
        stranger("127.0.0.2") as (pid, port),
        socket.create_server((ours, port)),
        pytest.raises(AddressHeld, match=f"pid {pid}"),
    ):
        check_free(Endpoint("127.0.0.2", port), ours=[os.getpid()])


def test_an_address_that_the_machine_lacks_has_no_holder() -> None:
    """The proxy may bind it with `freebind` or `transparent`; otherwise its own error is the right one."""
    check_free(Endpoint("192.0.2.1", 1), ours=[])


def test_a_free_port_has_no_holder() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert find_holders(Endpoint("127.0.0.1", bound.getsockname()[1])) == []


def test_low_ports_are_bound_for_others_by_root_only() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert not may_bind_for_others(0)
    assert not may_bind_for_others(low)
    if low > 1:
        assert may_bind_for_others(low - 1) is (os.geteuid() == 0)


# Paths that are held, and places without access


@contextmanager
def full(path: Path) -> Iterator[None]:
    """Listen at a path with a queue that is full."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as clients:
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        yield


def test_a_path_at_which_somebody_listens_is_held(tmp_path: Path) -> None:
    path = tmp_path / "web"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        check_free(Endpoint(path=str(path)), [])
        listener.listen()
        with pytest.raises(AddressHeld, match=f"{path}.*another process"):
            check_free(Endpoint(path=str(path)), [])
    check_free(Endpoint(path=str(path)), [])


def test_an_abstract_name_at_which_somebody_listens_is_held() -> None:
    name = f"@sockets-{os.getpid()}"
    check_free(Endpoint(path=name), [])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name[1:])
        listener.listen()
        with pytest.raises(AddressHeld, match=name):
            check_free(Endpoint(path=name), [])


def test_a_path_whose_listener_accepts_nobody_is_held_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "web"
    with full(path):
        with pytest.raises(AddressHeld):
            check_free(Endpoint(path=str(path)), [])
        with pytest.raises(MachineError, match=str(path)):
            listen(Endpoint(path=str(path)))
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_path_with_something_else_at_it_is_not_for_a_proxy_to_remove(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "web"
    path.touch() if kind == "file" else path.mkdir()
    with pytest.raises(AddressHeld, match=f"{path}.*not a socket"):
        check_free(Endpoint(path=str(path)), [])


@pytest.mark.parametrize("name", ["missing", "missing/below", "x" * 200])
def test_a_path_without_a_socket_is_free(tmp_path: Path, name: str) -> None:
    check_free(Endpoint(path=str(tmp_path / name)), [])


def test_a_path_without_access_is_left_to_the_proxy_and_an_error_for_the_agent(ordinary: Path) -> None:
    locked = ordinary / "locked"
    locked.mkdir(0)
    try:
        check_free(Endpoint(path=str(locked / "web")), [])
        with pytest.raises(MachineError, match=str(locked)):
            listen(Endpoint(path=str(locked / "web")))
    finally:
        locked.chmod(0o700)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_only_an_epoch_has_is_free(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        endpoint = Endpoint(host, listener.getsockname()[1])
        check_free(endpoint, [os.getpid()])
        with pytest.raises(AddressHeld, match=rf"pid {os.getpid()}"):
            check_free(endpoint, [1])
        assert [each.pid for each in find_holders(endpoint)] == [os.getpid()]


def test_a_port_whose_holder_is_hidden_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_connections", lambda _: [])
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(AddressHeld, match="another process"):
        check_free(Endpoint("127.0.0.1", listener.getsockname()[1]), [os.getpid()])


def test_a_holder_is_named_as_far_as_it_is_known() -> None:
    assert "another user" in str(Holder(None))
    assert str(Holder(os.getpid())).endswith(f" (pid {os.getpid()})")
    assert str(Holder(2**22 + 1)) == f"pid {2**22 + 1}"


def test_a_port_that_may_not_be_bound_is_an_error_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:80.*1023"):
        listen(Endpoint("127.0.0.1", 80))


@pytest.mark.parametrize(("port", "low", "uid", "answer"), [
    (1, "1024", 0, True), (1023, "1024", 0, True), (1024, "1024", 0, False), (0, "1024", 0, False),
    (80, "80", 0, False), (80, "81", 0, True), (80, "1024", 1000, False),
])  # fmt: skip
def test_a_low_port_is_one_that_the_kernel_keeps_for_root(
    port: int, low: str, uid: int, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(Path, "read_text", lambda _: f"{low}\n")
    assert may_bind_for_others(port) is answer


@pytest.mark.parametrize(
    ("asked", "listens", "holds"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "::1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "::2", False),
    ],
)
def test_a_holder_listens_at_the_address_or_at_one_that_stands_for_all(
    asked: str, listens: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(ip: str, port: int, status: str, pid: int | None) -> SimpleNamespace:
        return SimpleNamespace(status=status, laddr=SimpleNamespace(ip=ip, port=port), pid=pid)

    rows = [
        row(listens, 80, psutil.CONN_LISTEN, 7),
        row(listens, 80, psutil.CONN_LISTEN, 7),
        row(listens, 80, psutil.CONN_LISTEN, None),
        row(listens, 80, psutil.CONN_ESTABLISHED, 8),
        row(listens, 81, psutil.CONN_LISTEN, 9),
        SimpleNamespace(status=psutil.CONN_LISTEN, laddr=(), pid=10),
    ]
    monkeypatch.setattr(psutil, "net_connections", lambda kind: rows if kind == "tcp" else [])
    assert find_holders(Endpoint(asked, 80)) == ([Holder(7), Holder(None)] if holds else [])


def test_a_file_with_an_at_sign_is_no_abstract_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "@name").touch()
    check_free(Endpoint(path="@name"), [])
    with listen(Endpoint(path="@name")), pytest.raises(AddressHeld):
        check_free(Endpoint(path="@name"), [])
    assert (tmp_path / "@name").exists()
