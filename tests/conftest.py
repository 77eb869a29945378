"""What holds for every test: when it is long, whether it is run, and in which slice."""

import os
import zlib

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a duration: the machine is shared with other processes.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slice K/N`."""
    parser.addoption("--slice", metavar="K/N", type=_slice, help="run the K-th of N parts of the tests, K from 1 to N")


def _slice(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(text)
    return int(number), int(count)


@pytest.hookimpl(trylast=True)  # after the marks of other hooks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long tests unless they are asked for, and leave out what is not in the slice."""
    if "long" not in config.option.markexpr and not os.environ.get("AGENT_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: run with tests/run --long, -m long or AGENT_LONG=1"))
    if (part := config.option.slice) is not None:
        number, count = part
        others = [item for item in items if zlib.crc32(item.nodeid.encode()) % count != number - 1]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
