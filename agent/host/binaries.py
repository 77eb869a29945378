"""The proxy's program, found once and held open: an upgrade of the file does not change what the next epoch runs."""

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
    """An opened program. `identity` tells cheaply whether the file at `path` is still the same one."""

    path: Path
    descriptor: int
    identity: tuple[int, ...]

    @cached_property
    def digest(self) -> str:
        """Its content's digest: a tenth of a second for Envoy's 107 MB, so it is read only when it matters."""
        digest = hashlib.sha256()
        offset = 0
        while chunk := os.pread(self.descriptor, _CHUNK, offset):
            digest.update(chunk)
            offset += len(chunk)
        return digest.hexdigest()

    def close(self) -> None:
        """Give the file up; what runs from it goes on running."""
        os.close(self.descriptor)


def find(name: str) -> Path:
    """Where the program is that `--proxy-bin` names; raise `UsageError` with the next step if it is nowhere."""
    if "/" in name:
        path = Path(name)
        if not path.is_file():
            message = f"cannot run {name}: {'it is no program' if path.exists() else 'there is no such file'}"
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
    """The program inside the wheel of the `envoy` extra, not the script that the wheel puts in front of it."""
    spec = importlib.util.find_spec("envoy")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        path = Path(folder) / "_bin" / "envoy"
        if os.access(path, os.X_OK):
            return path
    return None


def _own_sidecar() -> Path | None:
    """The built-in proxy of this installation: pip puts it beside its interpreter, or beside the agent's command."""
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
    """One that is open already; the descriptor is the program's now."""
    return Binary(path, descriptor, _identity(os.fstat(descriptor)))


def identity_of(path: Path) -> tuple[int, ...] | None:
    """What the file at a path is now, for comparison; None if it cannot be told."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
