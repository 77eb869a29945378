"""The ways in which cert-manager, certbot, Vault and administrators write certificates into a directory.

Each writer writes one complete pair and returns the monotonic time at which its last byte was in place.
"""

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.certificates import Pair

CHAIN, KEY, ROOT = "tls.crt", "tls.key", "ca.crt"
LATE = 0.7

_generation = itertools.count(1)


@dataclass(frozen=True)
class Layout:
    """A named way of writing a pair: `first` creates the directory, `again` replaces its content."""

    name: str
    first: Callable[[Path, Pair], float]
    again: Callable[[Path, Pair], float]


def _files(pair: Pair) -> dict[str, bytes]:
    return {CHAIN: pair.chain_pem, KEY: pair.key_pem}


def _fill(directory: Path, pair: Pair) -> float:
    directory.mkdir(parents=True, exist_ok=True)
    return in_place(directory, pair)


def in_place(directory: Path, pair: Pair) -> float:
    """Truncate and write each file."""
    for name, data in _files(pair).items():
        (directory / name).write_bytes(data)
    return time.monotonic()


def renamed(directory: Path, pair: Pair) -> float:
    """Write each file beside its name and rename it over."""
    for name, data in _files(pair).items():
        beside = directory / f".{name}.tmp"
        beside.write_bytes(data)
        beside.replace(directory / name)
    return time.monotonic()


def kubernetes(directory: Path, pair: Pair) -> float:
    """Write a pair as the kubelet does for a mounted secret."""
    return mounted(directory, _files(pair))


def mounted(directory: Path, files: Mapping[str, bytes]) -> float:
    """Switch `..data` from one dated directory to the next, as the kubelet does for a secret or a ConfigMap."""
    directory.mkdir(parents=True, exist_ok=True)
    dated = directory / f"..2026_11_23_00_00_00.{next(_generation):09d}"
    dated.mkdir()
    for name, data in files.items():
        (dated / name).write_bytes(data)
    old = (directory / "..data").resolve() if (directory / "..data").is_symlink() else None
    (directory / "..data_tmp").symlink_to(dated.name)
    (directory / "..data_tmp").replace(directory / "..data")
    written = time.monotonic()
    for name in files:
        if not (directory / name).is_symlink():
            (directory / f".{name}.link").symlink_to(f"..data/{name}")
            (directory / f".{name}.link").replace(directory / name)
            written = time.monotonic()
    if old is not None and old != directory / "..data":
        shutil.rmtree(old, ignore_errors=True)
    return written


def moved(directory: Path, pair: Pair) -> float:
    """Move the directory away, remove it, and move a new one to its place."""
    number = next(_generation)
    new, old = (directory.with_name(f"{directory.name}.{word}{number}") for word in ("new", "old"))
    new.mkdir()
    in_place(new, pair)
    directory.rename(old)
    new.rename(directory)
    written = time.monotonic()
    shutil.rmtree(old)
    return written


def remade(directory: Path, pair: Pair) -> float:
    """Remove the directory and create it again, file by file."""
    shutil.rmtree(directory)
    return _fill(directory, pair)


def key_late(directory: Path, pair: Pair) -> float:
    """Write the certificate, and its key 0.7 s later."""
    (directory / CHAIN).write_bytes(pair.chain_pem)
    threading.Event().wait(LATE)
    (directory / KEY).write_bytes(pair.key_pem)
    return time.monotonic()


KUBERNETES = Layout("kubernetes", kubernetes, kubernetes)
IN_PLACE = Layout("in place", _fill, in_place)
RENAMED = Layout("renamed", _fill, renamed)
MOVED = Layout("moved", _fill, moved)
REMADE = Layout("remade", _fill, remade)
KEY_LATE = Layout("key late", _fill, key_late)
ALTERNATING = (KUBERNETES, IN_PLACE, RENAMED, MOVED, REMADE, KEY_LATE)
