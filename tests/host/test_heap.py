"""A process of its own each: the settings hold for all that follows in it."""

import ctypes
import subprocess
import sys

import pytest

from agent.host import heap

_THREADS = """
import ctypes, sys, threading
from agent.host import heap
if sys.argv[1] == "small":
    assert heap.keep_small()
done = [threading.Event() for _ in range(4)]
kept = []
def work(event):
    kept.append([bytes(2000) for _ in range(100)])  # larger than what the interpreter allocates itself
    event.set()
    leave.wait()
leave = threading.Event()
threads = [threading.Thread(target=work, args=(event,)) for event in done]
for each in threads: each.start()
for each in done: each.wait()
ctypes.CDLL(None).malloc_stats()
leave.set()
"""
GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def arenas(mode: str) -> int:
    """Count the arenas besides the first, as malloc_stats(3) prints them."""
    command = [sys.executable, "-c", _THREADS, mode]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return shown.count("Arena ") - 1


@pytest.mark.skipif(not GLIBC, reason="only glibc has arenas")
def test_threads_have_no_arenas_of_their_own() -> None:
    assert arenas("small") == 0
    assert arenas("as it is") > 0


def test_a_c_library_without_these_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert not heap.keep_small()


def test_a_refused_setting_is_not_taken_for_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        def mallopt(self, parameter: int, _: int) -> int:
            asked.append(parameter)
            return len(asked) - 1  # 0 is a refusal

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert not heap.keep_small()
    assert asked == list(heap.SETTINGS), "the others are set all the same"
