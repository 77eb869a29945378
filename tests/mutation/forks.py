"""Processes that leave nothing behind: workers, and the jobs that each of them runs one after another.

As root each worker has a network and a /dev/shm of its own. What a job starts and leaves becomes the worker's child.
"""

import ctypes
import json
import os
import select
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import psutil

from tests.system.namespaces import may_have_networks, own_network
from tests.system.sandbox import seclude

TIMEOUT = -signal.SIGKILL
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1  # linux/prctl.h
_PERIOD = 0.2  # seconds between two looks for orphans that have exited

Work = Callable[[Path], Iterable[object]]


def at_work(works: Sequence[Work]) -> Iterator[Any]:
    """Run each in a process of its own, with a directory; yield what they yield, through JSON, as it comes."""
    workers = [_start(work) for work in works]
    with selectors.DefaultSelector() as selector:
        try:
            for _, pipe in workers:
                selector.register(pipe, selectors.EVENT_READ, pipe)
            while selector.get_map():
                for key, _ in selector.select():
                    if line := key.data.readline():
                        yield json.loads(line)
                    else:
                        selector.unregister(key.fileobj)
        finally:
            for pid, pipe in workers:
                pipe.close()
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


def run(place: Path, job: Callable[[], int], limit: float | None = None) -> int:
    """Run a job in a process with a directory of its own; return its exit code, or `TIMEOUT` after `limit` seconds."""
    directory = place / "r"
    directory.mkdir(mode=0o1777)
    directory.chmod(0o1777)
    if not (pid := os.fork()):
        _become(directory, job)
    pidfd, until = os.pidfd_open(pid), time.monotonic() + (limit or float("inf"))
    try:
        while (code := _exit_code(pid)) is None:
            if (left := until - time.monotonic()) <= 0:
                return TIMEOUT
            select.select([pidfd], [], [], min(left, _PERIOD))
        return code
    finally:
        os.close(pidfd)
        while children := psutil.Process().children():
            for child in children:
                child.kill()
                child.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _start(work: Work) -> tuple[int, IO[str]]:
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.close(reading)
        _serve(work, writing)
    os.close(writing)
    return pid, open(reading, encoding="utf-8")  # noqa: PTH123 - closed with the worker


def _serve(work: Work, pipe: int) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = Path(tempfile.mkdtemp(prefix="m.", dir="/tmp"))  # Unix sockets have short names
    code = 1
    try:
        place.chmod(0o755)
        for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
            ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0)))
        if may_have_networks():
            own_network().__enter__()  # for as long as the process lives
            (place / "shm").mkdir(mode=0o1777)
            seclude(str(place / "shm"), [])
        for answer in work(place):
            os.write(pipe, json.dumps(answer).encode() + b"\n")
        code = 0
    except (KeyboardInterrupt, SystemExit):
        pass
    except BaseException as error:  # noqa: BLE001 - a fork must not return into the parent's code
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os._exit(code)


def _become(directory: Path, job: Callable[[], int]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.close(null)
        os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
        code = job()
    finally:
        os._exit(code)


def _exit_code(pid: int) -> int | None:
    """Reap what has exited until `pid` has; return its exit code."""
    while True:
        dead, status = os.waitpid(-1, os.WNOHANG)
        if dead == pid:
            return os.waitstatus_to_exitcode(status)
        if not dead:
            return None
