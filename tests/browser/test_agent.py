"""The page of a real agent with the real sidecar, in a network without a way out, during rotations and refusals."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.browser.chromium import PHONE, Tab, browser, tab
from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import Files, serial
from tests.system.eventually import eventually
from tests.system.proxies import needed
from tests.system.room import open_room
from tests.system.wire import connect, tls_context

DRAINS = ["--drain-time", "20s", "--drain-deadline", "40s"]


@contextmanager
def running() -> Iterator[AgentFixture]:
    """Yield a ready agent, in its own sandbox."""
    with open_room() as room:
        instance = AgentFixture(room=room, name="b", binary=needed("sidecar").binary, proxy_args=[], more_flags=DRAINS)
        try:
            instance.start()
            yield instance
        except BaseException:
            sys.stderr.write(instance.journal.tail())
            raise
        finally:
            instance.stop()


@contextmanager
def clients(instance: AgentFixture, count: int) -> Iterator[list[socket.socket]]:
    """Open this many clients, each in the middle of a request."""
    with ExitStack() as stack:
        made = [stack.enter_context(connect(instance.tls, tls_context())) for _ in range(count)]
        for one in made:
            one.sendall(b"GET / HTTP/1.1\r\nHost: te")
        yield made


def test_it_follows_the_real_agent(tmp_path: Path) -> None:
    with (
        running() as instance,
        browser() as chromium,
        tab(chromium, f"http://127.0.0.1:{instance.status.port}/") as seen,
    ):
        seen.says("Ready. Epoch 1 serves.")
        assert f"…{serial(instance.mint.newest):x}"[-4:] in seen.text("#certificates")
        assert "start" in seen.text("#rotations")
        with clients(instance, 5) as first:
            instance.rotate()
            seen.says("Ready. Epoch 2 serves, 1 drains.")
            seen.has("#rotations tr:first-child", "certificate")
            with clients(instance, 3) as second:
                instance.rotate()
                seen.says("Ready. Epoch 3 serves, 1 and 2 drain.")
                _counts(seen, "3 of 3 connections left", "5 of 5 connections left")
                _leave(first, 2)
                _counts(seen, "3 of 3 connections left", "3 of 5 connections left")
                _refuse(instance, seen)
                _look(seen, tmp_path)
                _leave(second, 3)
                seen.says("Ready. Epoch 3 serves, 1 drains.")
        instance.rotate()
        seen.says("Ready. Epoch 4 serves")
        eventually(lambda: not seen.page.is_visible("#refused-section"), what="nothing is refused")
        assert [text.split(" certificate,")[0] for text in seen.all("#rotations tr")][:3] == [
            "Epoch 4 serving",
            "Epoch 3 serving",
            "Epoch 2 serving",
        ]


def _counts(seen: Tab, *counts: str) -> None:
    """Wait until the page shows these drains, newest first."""
    told: Callable[[], bool] = lambda: tuple(text.split(" cut")[0] for text in seen.all(".drain:visible")) == counts  # noqa: E731
    eventually(told, what=f"{counts}")


def _leave(clients: list[socket.socket], count: int) -> None:
    for _ in range(count):
        clients.pop().close()


def _refuse(instance: AgentFixture, seen: Tab) -> None:
    """Write two files that do not match."""
    one, other = instance.mint.spare(), instance.mint.spare()
    instance.layout.again(instance.certs, Files(one.chain_pem, other.key_pem))
    seen.has("#troubles", "refused")
    assert str(instance.certs) in seen.text("#refused")
    assert "does not fit" in seen.text("#refused")
    assert "refused" in seen.all("#certificates .badge")


def _look(seen: Tab, tmp_path: Path) -> None:
    """Check that the page is legible in both colour schemes and at all widths."""
    for scheme in ("light", "dark"):
        for name, (width, height) in {"": (1200, 900), "-phone": PHONE}.items():
            seen.page.emulate_media(color_scheme=scheme)
            seen.page.set_viewport_size({"width": width, "height": height})
            assert seen.offences() == []
            assert not seen.is_too_wide()
            seen.shoot(f"agent-{scheme}{name}", tmp_path)
