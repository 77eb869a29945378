"""The proxy's binary, held open so that replacing the file does not affect the next epoch."""

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agent.core.errors import UsageError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Binary:
    """An open program; `identity` is a cheap check for a replaced file at `path`."""

    path: Path
    descriptor: int
    identity: tuple[int, ...]

    @cached_property
    def digest(self) -> str:
        """The content's SHA-256: 0.1 s for Envoy's 107 MB, so computed only when needed."""
        digest = hashlib.sha256()
        offset = 0
        while chunk := os.pread(self.descriptor, _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file; processes that run it are not affected."""
        os.close(self.descriptor)


def find(name: str) -> Path:
    """Return the path of the program that `--proxy-bin` names. Raises `UsageError`."""
    if "/" in name:
        path = Path(name)
        if not path.is_file():
            message = f"cannot run {name}: {'it is not a program' if path.exists() else 'there is no such file'}"
            raise UsageError(message)
        if not os.access(path, os.X_OK):
            message = f"cannot run {name}: it is not executable"
            raise UsageError(message)
        return path
    if name in _PACKAGED and (packaged := _PACKAGED[name]()) is not None:
        return packaged
    found = shutil.which(name)
    if found is None:
        remedy = ", or: pip install 'proxy-agent[envoy]'" if name == "envoy" else ""
        message = f"cannot find {name} in PATH; give a path{remedy}"
        raise UsageError(message)
    return Path(found)


def _packaged_envoy() -> Path | None:
    """Return the program in the wheel of the `envoy` extra, not the wheel's wrapper script."""
    spec = importlib.util.find_spec("envoy")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        path = Path(folder) / "_bin" / "envoy"
        if os.access(path, os.X_OK):
            return path
    return None


def _own_sidecar() -> Path | None:
    """Return this installation's built-in proxy: beside the interpreter or the agent's command."""
    beside = (Path(program).with_name("sidecar") for program in (sys.executable, sys.argv[0]) if program)
    return next((path.absolute() for path in beside if path.is_file() and os.access(path, os.X_OK)), None)


_PACKAGED: Mapping[str, Callable[[], Path | None]] = {"envoy": _packaged_envoy, "sidecar": _own_sidecar}


def open_binary(path: Path) -> Binary:
    """Open a program. Raises `UsageError` if it cannot be read."""
    try:
        return opened_binary(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise UsageError(message) from error


def opened_binary(path: Path, descriptor: int) -> Binary:
    """Return a binary that owns an already open descriptor."""
    return Binary(path, descriptor, _identity(os.fstat(descriptor)))


def identity_of(path: Path) -> tuple[int, ...] | None:
    """Return the identity of the file at `path`, for comparison; None if stat fails."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
