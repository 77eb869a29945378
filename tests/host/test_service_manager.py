import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.host.service_manager import ServiceManager

# sdnotify forgets its socket where it cannot connect
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The end of the socket at which systemd reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield made


def said(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_the_unit_is_up_when_something_serves_and_each_state_is_told_once(manager: socket.socket) -> None:
    told = ServiceManager()
    told.status("waiting", ready=False)
    told.status("waiting", ready=False)
    told.status("epoch 1 is serving", ready=True)
    told.status("epoch 1 is serving", ready=True)
    told.stopping()
    assert said(manager) == [
        "STATUS=waiting",
        "READY=1\nSTATUS=epoch 1 is serving",
        "STOPPING=1\nSTATUS=draining",
    ]
    told._notifier.socket.close()


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    told = ServiceManager()
    told.status("x", ready=True)
    told.stopping()
    gc.collect()


def test_a_systemd_that_went_away_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    told = ServiceManager()
    told.status("x", ready=True)
    gc.collect()
