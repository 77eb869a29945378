"""Fixtures of the browser's tests, which are all long."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import browser
from tests.browser.scenes import calm
from tests.browser.stage import Stage, staged

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test here `long`, and leave them out unless they are asked for."""
    wanted = "long" in config.option.markexpr or os.environ.get("AGENT_LONG")
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.long)
        if not wanted:
            item.add_marker(pytest.mark.skip(reason="long: run with -m long, or with AGENT_LONG=1"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; there may be one at a time, so other modules start their own."""
    with browser() as made:
        yield made


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A small agent that shows what the test tells it; at first, that all is well."""
    with staged(calm()) as made:
        yield made
