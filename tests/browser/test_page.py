"""The page during a scenario: its content at each step, its accessibility, and that it requests no other host."""

from pathlib import Path
from typing import Any

import pytest

from agent.status.model import Status
from tests.browser import scenes
from tests.browser.chromium import DESK, PHONE, tab
from tests.browser.stage import Stage

WATCH_CHANGES = """() => {
  window.changes = [];
  new MutationObserver((all) => window.changes.push(...all.map((one) => one.type)))
    .observe(document.getElementById("verdict"), {subtree: true, childList: true, characterData: true});
}"""
SCROLLS_BY_ITSELF = """() => [...document.querySelectorAll("body *")]
  .filter((one) => /auto|scroll/.test(getComputedStyle(one).overflow) && one.scrollHeight > one.clientHeight)
  .map((one) => one.outerHTML.slice(0, 80))"""
FOCUSED = "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
MOVES = """() => [...document.querySelectorAll("*")]
  .filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"""
LOOKS = [("light", DESK), ("dark", DESK), ("light", PHONE), ("dark", PHONE)]


def test_it_follows_two_rotations_and_a_refusal(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url) as seen:
        seen.says("Ready. Epoch 7 serves.")
        assert seen.text("#contact") == "live"
        assert seen.run("() => document.body.dataset.tone") == "good"
        assert not seen.page.is_visible("#refused-section")
        assert seen.all("#certificates .badge") == ["served"] * 2

        stage.show(scenes.tried())
        seen.says("Ready. Epoch 7 serves, 8 is being tried.")
        assert seen.all("#epochs h3") == ["Epoch 8 candidate, at the gate", "Epoch 7 serving"]
        assert "web: 1f01 → 1f02" in seen.all("#rotations tr")[0]

        stage.show(scenes.rotated())
        seen.says("Ready. Epoch 8 serves, 7 drains.")
        assert "40 of 40 connections left" in seen.text(".drain:visible")
        assert "cut in 9 min 5" in seen.text(".drain:visible")
        first = seen.all("#rotations tr")[0]
        for words in ("Epoch 8 serving", "certificate,", "98 ms", "start 81 ms", "handover 3.0 ms", "3 clients waited"):
            assert words in first
        assert seen.all("#listeners tr")[0] == "tcp://0.0.0.0:15443 2 3 3"

        stage.show(scenes.rotated_again())
        seen.says("Ready. Epoch 9 serves, 7 and 8 drain.")
        assert [text.split(" left")[0] for text in seen.all(".drain:visible")] == [
            "31 of 33 connections",
            "12 of 40 connections",
        ]

        stage.show(scenes.refused())
        seen.has("#troubles", "A file on disk is refused; its last good version stays in use.")
        assert scenes.WHY in seen.text("#refused")
        assert seen.all("#certificates .badge") == ["served", "refused"]
        assert "7c41e0d2…4e20" in seen.all("#certificates tr")[1]

        stage.show(scenes.broken())
        seen.says("Not ready: no epoch serves.")
        assert seen.run("() => document.body.dataset.tone") == "bad"
        assert seen.page.is_visible("#epochs-none")
        assert seen.page.title() == "Not ready · proxy agent"


def test_crashes_are_a_trouble_and_told_apart(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.crashed())
    with tab(chromium, stage.url) as seen:
        seen.says("Ready. Epoch 8 serves.")
        seen.has("#troubles", "2 crashes in the last hour, the last one: epoch 7 was killed by SIGSEGV after 12.0 s.")
        assert seen.run("() => document.body.dataset.tone") == "bad"
        assert seen.all("#rotations .attempt .badge") == ["serving", "crashed", "crashed", "crashed"]
        assert "It ran out of memory after 12.0 s." in seen.text("#rotations")


def test_markup_in_what_the_agent_says_is_text(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url) as seen:
        stage.show(scenes.hostile())
        seen.says(f"Not ready: {scenes.HOSTILE}.")
        for place in ("#refused", "#rotations", "#certificates", "#listeners", "#identity"):
            assert scenes.HOSTILE in seen.text(place)
        assert seen.run("() => document.images.length + document.querySelectorAll('[onerror]').length") == 0
        assert {url.removeprefix(seen.url) for url in seen.asked} <= {
            "",
            "style.css",
            "script.js",
            "icon.svg",
            "events",
        }


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
@pytest.mark.parametrize("scene", [scenes.calm, scenes.refused, scenes.broken])
def test_the_page_is_accessible(
    chromium: Any,  # noqa: ANN401
    stage: Stage,
    scheme: str,
    size: tuple[int, int],
    scene: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    shown: Status = scene()
    stage.show(shown)
    with tab(chromium, stage.url, size, color_scheme=scheme) as seen:
        seen.has("#contact", "live")
        seen.page.locator("summary").first.click()
        assert seen.offences() == []
        assert not seen.is_too_wide()
        assert seen.run(SCROLLS_BY_ITSELF) == []
        seen.page.locator("summary").first.click()
        seen.shoot(f"{scene.__name__}-{scheme}{'-phone' if size == PHONE else ''}", tmp_path)


def test_the_longest_words_do_not_make_it_wide(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    long = "/etc/" + "x" * 300
    stage.show(scenes.refused(why=f"cannot use {long}: no", path=long))
    with tab(chromium, stage.url, PHONE) as seen:
        seen.has("#refused", long)
        assert not seen.is_too_wide()


def test_a_keyboard_reaches_everything_and_keeps_its_place(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url) as seen:
        seen.says("Ready.")
        reached = []
        for _ in range(6):
            seen.page.keyboard.press("Tab")
            reached.append(
                seen.run(
                    "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
                )
            )
            assert seen.run("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert reached == ["details of web", "details of api", "status as JSON", "its schema", "metrics", "statistics"]
        seen.page.locator("summary").nth(1).focus()
        seen.page.keyboard.press("Enter")
        stage.show(scenes.refused())
        seen.has("#certificates", "refused")
        assert seen.run(FOCUSED) == "details of api"
        assert "DNS:api.example" in seen.text("#certificates")


def test_a_screen_reader_announces_changes_and_not_clocks(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.rotated(left=40))
    with tab(chromium, stage.url) as seen:
        seen.has(".drain", "40 of 40")
        seen.run(WATCH_CHANGES)
        for left in (39, 38, 20):
            stage.show(scenes.rotated(left=left))
            seen.has(".drain", f"{left} of 40")
        assert seen.run("() => window.changes") == []
        stage.show(scenes.rotated_again())
        seen.says("Epoch 9 serves")
        assert seen.run("() => window.changes") != []
        live = seen.page.locator("[aria-live], [role=status], [role=alert]")
        assert live.count() == 1


def test_landmarks_headings_and_tables_have_their_names(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.refused())
    with tab(chromium, stage.url, PHONE) as seen:
        seen.has("#certificates", "web")
        tree = seen.page.locator("body").aria_snapshot()
        for part in ("banner", "main", "contentinfo", 'navigation "The same in other forms"', 'region "Epochs"'):
            assert part in tree
        for part in ('table "Served certificates and certificates on disk"', 'rowheader "web', 'columnheader "Served"'):
            assert part in tree, "it is a table on a phone too"


def test_a_lost_connection_is_said_and_comes_back(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url) as seen:
        seen.says("Ready.")
        seen.may_lose = True
        stage.close()
        seen.says("Connection lost, last seen")
        seen.has("#troubles", "It was: Ready. Epoch 7 serves.")
        assert "retrying" in seen.text("#contact")
        stage.show(scenes.rotated())
        stage.open()
        seen.says("Ready. Epoch 8 serves, 7 drains.")
        seen.has("#contact", "live")


def test_where_events_do_not_come_through_it_asks(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.stream._watchers_limit = 0
    with tab(chromium, stage.url, may_lose=True) as seen:
        seen.says("Ready. Epoch 7 serves.")
        seen.has("#contact", "not live, polling")
        stage.stream._watchers_limit = 1
        seen.has("#contact", "live")


def test_without_a_script_it_leads_to_the_facts(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url, java_script_enabled=False) as seen:
        assert seen.page.locator("noscript a").first.get_attribute("href") == "status"
        assert seen.page.locator("noscript").is_visible()


def test_nothing_moves_for_who_does_not_want_it(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    with tab(chromium, stage.url, reduced_motion="reduce") as seen:
        seen.says("Ready.")
        assert seen.run(MOVES) == 0
