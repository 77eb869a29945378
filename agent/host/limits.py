"""What the kernel lets one process have."""

import contextlib
import resource


def raise_descriptor_limit() -> None:
    """Use as many descriptors as the hard limit allows; the epochs inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
