"""Runs the installed HAProxy on a text, for comparisons with it."""

import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.haproxies import haproxy


@dataclass(frozen=True)
class Verdict:
    """What `haproxy -c` says of a configuration."""

    code: int
    output: str


def program() -> Path:
    """Return the installed HAProxy; the test is skipped without one."""
    found = haproxy()
    if found is None:
        pytest.skip("no haproxy: install it")
    return found.binary


def checked(config: Path, environment: dict[str, str] | None = None, descriptors: Collection[int] = ()) -> Verdict:
    """Let HAProxy validate a file; it inherits `descriptors`."""
    done = subprocess.run(
        [program(), "-c", "-f", config],
        capture_output=True,
        check=False,
        timeout=60,
        env=environment,
        pass_fds=tuple(descriptors),
    )
    return Verdict(done.returncode, (done.stdout + done.stderr).decode("utf-8", "surrogateescape"))


def is_installed() -> bool:
    """Return whether there is an HAProxy to compare with."""
    return shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin") is not None
