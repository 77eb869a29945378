"""Rules for every test of the host: coroutines run on a loop of their own, and no descriptor may leak."""

import asyncio
import inspect
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import thread  # noqa: F401  # asyncio imports it late; `ordinary` may not read Python's files
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def test_…` to its end on a fresh loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """Compare this process's open descriptors before and after, each by its target."""
    before = _open_descriptors()
    yield
    for closing in (each for each in threading.enumerate() if each.name == "close"):
        closing.join()  # a descriptor that is no socket is closed beside the loop
    assert _open_descriptors() == before


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[Path]:
    """Run as a user without privileges, with a directory to work in: root becomes nobody during the test."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    place = Path(tempfile.mkdtemp())  # other users cannot enter pytest's own directories
    os.chown(place, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield place
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


def _open_descriptors() -> dict[str, str]:
    held = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held[entry.name] = str(entry.readlink())
        except FileNotFoundError:  # the one that lists the directory
            continue
    return held
