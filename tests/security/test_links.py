"""Links that the proxy's user puts into its epoch's directory redirect no access of root."""

import os
import socket
import stat
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.envoy]
NOBODY = 65534


def admin(instance: AgentFixture, target: str, method: str = "GET") -> tuple[int, str]:
    """Send a request to the admin address of the bootstrap."""
    asked = Request(f"http://127.0.0.1:{instance.bootstrap.admin_port}{target}", method=method)
    try:
        with urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def home(instance: AgentFixture) -> Path:
    """The directory of the serving epoch, which belongs to the proxy."""
    return instance.run_dir / str(instance.serving().number)


def put_link(path: Path, target: Path) -> None:
    """Replace the entry by a link, as the proxy's user."""
    beside = path.with_name("evil")
    beside.symlink_to(target)
    os.chown(beside, NOBODY, NOBODY, follow_symlinks=False)
    beside.rename(path)


def test_an_admin_socket_that_became_a_link_gets_no_request(distrusting: AgentFixture) -> None:
    """The victim is any socket of root: it receives no byte, and the agent continues."""
    instance = distrusting
    assert admin(instance, "/ready") == (200, "LIVE\n")
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(instance.directory / "victim"))
        victim.listen()
        victim.setblocking(False)
        put_link(home(instance) / "admin", instance.directory / "victim")
        status, text = admin(instance, "/quitquitquit", "POST")
        assert status == 503
        assert "is not a socket any more" in text
        with pytest.raises(BlockingIOError):
            victim.accept()
    (instance.directory / "victim").unlink()
    instance.rotate()
    instance.served()
    eventually(lambda: admin(instance, "/ready") == (200, "LIVE\n"), what="the next epoch's console answers")


def test_an_admin_socket_replaced_by_the_agents_own_socket_gets_no_request(distrusting: AgentFixture) -> None:
    instance = distrusting
    control = next(path for path in instance.run_dir.iterdir() if stat.S_ISSOCK(path.lstat().st_mode))
    put_link(home(instance) / "admin", control)
    status, _ = admin(instance, "/stop", "POST")
    assert status == 503
    instance.rotate()
    instance.served()
