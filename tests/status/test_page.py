import re
from pathlib import Path

import pytest

from agent.http.message import Request, Response
from agent.status import page as module
from agent.status.page import Page

SITE = Path(module.__file__).with_name("site")
SCRIPTS = ("words.js", "charts.js", "script.js")
SCRIPT = "".join((SITE / name).read_text(encoding="utf-8") for name in SCRIPTS)
DOCUMENT = (SITE / "index.html").read_text(encoding="utf-8")
STYLE = (SITE / "style.css").read_text(encoding="utf-8")


async def ask(target: str, method: str = "GET") -> Response:
    return await Page().answer(Request(method, target))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("target", "file", "kind"),
    [
        ("/", "site/index.html", "text/html; charset=utf-8"),
        ("/?anything", "site/index.html", "text/html; charset=utf-8"),
        ("/style.css", "site/style.css", "text/css; charset=utf-8"),
        *((f"/{name}", f"site/{name}", "text/javascript; charset=utf-8") for name in SCRIPTS),
        ("/icon.svg", "site/icon.svg", "image/svg+xml"),
        ("/status/schema.json", "schema.json", "application/schema+json"),
    ],
)
async def test_each_part_of_the_page_is_answered(method: str, target: str, file: str, kind: str) -> None:
    answer = await ask(target, method)
    assert answer.status == 200
    assert answer.body == (SITE.parent / file).read_bytes()
    assert dict(answer.headers)["content-type"] == kind


async def test_the_paths_are_the_ones_that_are_answered() -> None:
    assert {(await ask(path)).status for path in Page.paths} == {200}
    assert (await ask("/site/script.js")).status == 404
    assert (await ask("/../schema.json")).status == 404


async def test_whatever_is_answered_may_load_nothing_from_elsewhere() -> None:
    for path in Page.paths:
        headers = dict((await ask(path)).headers)
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy.pop("default-src") == "'none'"
        assert set(policy.values()) == {"'self'", "'none'"}
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_the_page_takes_no_orders(method: str) -> None:
    answer = await ask("/", method)
    assert answer.status == 405
    assert ("allow", "GET, HEAD") in answer.headers


async def test_an_upgrade_may_take_the_files_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Page()
    monkeypatch.setattr(module, "_HERE", tmp_path)
    with pytest.raises(FileNotFoundError):
        Page()
    assert (await made.answer(Request("GET", "/"))).status == 200


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in SITE.iterdir()) < 64 << 10


def test_nothing_in_it_names_another_place() -> None:
    code = re.sub(r"(^|\s)// .*", "", DOCUMENT + STYLE + SCRIPT)
    assert not re.findall(r"(?:https?:)?//[\w.]+", code)
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_what_the_agent_says_is_never_taken_for_markup() -> None:
    ways = "innerHTML|outerHTML|insertAdjacentHTML|document.write|eval\\(|Function\\(|setHTML|DOMParser|srcdoc"
    assert not re.findall(ways, SCRIPT)


def test_the_script_finds_what_it_looks_for() -> None:
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', SCRIPT))
    assert wanted
    assert wanted <= set(re.findall(r'id="([\w-]+)"', DOCUMENT))


def test_it_has_nothing_that_acts() -> None:
    """Its buttons and its filter change what is shown; no request is sent but for the status."""
    assert not re.findall(r"<(?:form|select|textarea)\b|formaction|<button(?![^>]*type=.button)", DOCUMENT)
    assert not re.findall(r'make\("(?:form|input|a)"|method:|XMLHttpRequest|sendBeacon|WebSocket', SCRIPT)
    assert re.findall(r'fetch\("(\w+)"|EventSource\("(\w+)"', SCRIPT) == [("", "events"), ("status", "")]
