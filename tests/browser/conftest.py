"""Fixtures of the browser tests, which are all long."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import browser
from tests.browser.scenes import calm
from tests.browser.stage import Stage, staged

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here `long`."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; other modules start their own, since only one can run at a time."""
    with browser() as made:
        yield made


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A small agent that publishes the status set by the test; at first a healthy one."""
    with staged(calm()) as made:
        yield made
