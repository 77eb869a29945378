"""The real Envoy, for results that only it can give: whether it accepts a file, and its error message."""

import os
import subprocess
from collections.abc import Sequence

import pytest

from tests.system.bare import envoy_binary
from tests.system.eventually import PATIENCE

ENVOY = envoy_binary()
wants_envoy = pytest.mark.skipif(ENVOY is None, reason="no Envoy")


def run(arguments: Sequence[str], descriptors: Sequence[int] = ()) -> tuple[int, str]:
    """Run Envoy to its end; return its exit code and its output."""
    assert ENVOY is not None
    ran = subprocess.run(
        [ENVOY, *arguments], capture_output=True, text=True, check=False, pass_fds=descriptors, timeout=PATIENCE
    )
    return ran.returncode, ran.stdout + ran.stderr


def memory(content: bytes) -> int:
    """Write bytes into a file without a name, which the caller closes."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor


__all__ = ["ENVOY", "memory", "run", "wants_envoy"]
