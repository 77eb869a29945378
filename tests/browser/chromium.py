"""Headless Chromium, and a record of one page's requests and errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.eventually import PATIENCE

DESK, PHONE = (1200, 900), (360, 740)
_ALONE = (
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_COMPLAINTS = {"error", "warning"}


def program() -> Path:
    """Return the path of the browser; skip the test if it is missing."""
    found = os.environ.get("AGENT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one by AGENT_CHROMIUM")
    return Path(found)


@contextmanager
def browser() -> Iterator[Any]:
    """Start the browser; skip the test if playwright is missing."""
    reason = "no playwright: requirements/install browser"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    arguments = [*_ALONE, "--no-sandbox"] if os.geteuid() == 0 else [*_ALONE]
    with playwright.sync_playwright() as play:
        made = play.chromium.launch(executable_path=program(), args=arguments)
        try:
            yield made
        finally:
            made.close()


@dataclass
class Tab:
    """One page of the browser, at `url`."""

    page: Any
    url: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    may_lose: bool = False  # a lost connection: the browser logs an error for it

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        self.page.goto(self.url)

    def _hear(self, message: Any) -> None:  # noqa: ANN401
        is_of_network = message.text.startswith("Failed to load resource")
        if message.type in _COMPLAINTS and not (self.may_lose and is_of_network):
            self.complaints.append(message.text)

    def text(self, selector: str) -> str:
        """Return the visible text of the first match."""
        return str(self.page.locator(selector).first.inner_text())

    def all(self, selector: str) -> list[str]:
        """Return the visible texts of all matches, with white space collapsed."""
        return [" ".join(text.split()) for text in self.page.locator(selector).all_inner_texts()]

    def says(self, headline: str) -> None:
        """Wait until the headline contains these words."""
        self.has("#headline", headline)

    def has(self, selector: str, text: str) -> None:
        """Wait until an element with this text exists."""
        place = self.page.locator(selector, has_text=text).first
        place.wait_for(timeout=PATIENCE * 1000)

    def run(self, script: str) -> Any:  # noqa: ANN401
        """Return the result of a function run in the page."""
        return self.page.evaluate(script)

    def shoot(self, name: str, where: Path) -> None:
        """Take a full screenshot; saved in AGENT_SHOTS if that is set."""
        directory = Path(os.environ.get("AGENT_SHOTS") or where)
        self.page.screenshot(path=directory / f"{name}.png", full_page=True)

    @property
    def strangers(self) -> list[str]:
        """The requests to other hosts than the agent."""
        return [url for url in self.asked if not url.startswith(self.url)]

    def is_too_wide(self) -> bool:
        """Whether the page scrolls horizontally."""
        return bool(self.run("() => document.documentElement.scrollWidth > window.innerWidth"))

    def offences(self) -> list[str]:
        """Return the violations that axe rates serious or critical."""
        reason = "no axe: requirements/install browser"
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason)
        found = axe.Axe().run(self.page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {[node['html'] for node in one['nodes'][:3]]}"
            for one in found
            if one["impact"] in {"serious", "critical"}
        ]


@contextmanager
def tab(
    chromium: Any,  # noqa: ANN401
    url: str,
    size: tuple[int, int] = DESK,
    *,
    may_lose: bool = False,
    **context: Any,  # noqa: ANN401
) -> Iterator[Tab]:
    """Open a page; at the end, check that it sent no request elsewhere and logged no error."""
    made = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **context)
    try:
        opened = Tab(made.new_page(), url, may_lose=may_lose)
        yield opened
        assert opened.strangers == [], opened.strangers
        assert opened.complaints == [], opened.complaints
    finally:
        made.close()
