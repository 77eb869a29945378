import re
from html.parser import HTMLParser

import pytest

from agent.sidecar.admin_page import page

FACTS = {"state": "LIVE", "clusters": "", "listeners": 'a&b<script>"x"'}
LOOKS = {"/stats": "statistics", "/ready": "state"}
CHANGES = {"/quitquitquit": "end the process"}


class Reading(HTMLParser):
    """Notes tags with their attributes, and texts; every tag must be closed in order."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


@pytest.fixture
def reading() -> Reading:
    return Reading(page(FACTS, LOOKS, CHANGES))


def test_the_page_is_whole(reading: Reading) -> None:
    assert page(FACTS, LOOKS, CHANGES).startswith("<!DOCTYPE html>\n")
    assert reading.open == []
    assert {"html", "head", "title", "body", "h1"} <= {tag for tag, _ in reading.tags}
    assert ("meta", {"charset": "utf-8"}) in reading.tags


def test_the_state_is_in_the_title(reading: Reading) -> None:
    assert reading.texts[0] == "sidecar: LIVE"


def test_facts_are_shown_as_text_and_an_empty_one_as_none(reading: Reading) -> None:
    texts = reading.texts
    assert texts[texts.index("listeners") + 1] == 'a&b<script>"x"'
    assert texts[texts.index("clusters") + 1] == "none"
    assert texts[texts.index("state") + 1] == "LIVE"
    assert "script" not in {tag for tag, _ in reading.tags}


def test_a_state_is_escaped_in_the_title_too() -> None:
    assert "<title>sidecar: &lt;b&gt;</title>" in page({"state": "<b>"}, {}, {})


def test_what_shows_is_a_link_and_what_changes_a_button(reading: Reading) -> None:
    links = [attributes["href"] for tag, attributes in reading.tags if tag == "a"]
    forms = [attributes for tag, attributes in reading.tags if tag == "form"]
    assert links == ["/stats", "/ready"]
    assert forms == [{"method": "post", "action": "/quitquitquit"}]
    assert reading.texts.count("/stats") == reading.texts.count("/quitquitquit") == 1
    assert {"statistics", "state", "end the process"} <= set(reading.texts)


def test_braces_of_a_name_are_no_placeholders() -> None:
    assert re.search(r"<th>\{0\}</th><td>\{state\}</td>", page({"state": "x", "{0}": "{state}"}, {}, {}))
