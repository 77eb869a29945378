"""The page during a scenario: its content at each step, its accessibility, and that it requests no other host."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.expiry import expiry
from agent.status.model import Status
from tests.browser import scenes
from tests.browser.chromium import DESK, PHONE, Tab, tab
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
        for words in ("Epoch 8 serving", "certificate,", "98 ms", "nobody lost ✓"):
            assert words in first
        assert "3 clients waited" not in first, "on demand"
        seen.page.locator("#rotations summary").first.click()
        first = seen.all("#rotations tr")[0]
        for words in ("start 81 ms", "handover 3.0 ms", "3 clients waited"):
            assert words in first
        assert "Nobody lost in 1 rotation ✓" in seen.text("#outlook")
        assert seen.all("#listeners tr")[0] == "tcp://0.0.0.0:15443 2 3 3"

        stage.show(scenes.rotated_again())
        seen.says("Ready. Epoch 9 serves, 7 and 8 drain.")
        assert [text.split(" left")[0] for text in seen.all(".drain:visible")] == [
            "31 of 33 connections",
            "12 of 40 connections",
        ]

        stage.show(scenes.refused())
        why = "certificate and key do not belong together; the last good one serves."
        seen.has("#troubles", f"The files on disk of api are refused: {why}")
        assert scenes.WHY in seen.text("#refused")
        assert seen.text("body").count(scenes.WHY) == 1, "once"
        assert seen.all("#certificates .badge") == ["refused", "served"], "first what needs attention"
        seen.page.locator("#certificates summary").first.click()
        assert "on disk: serial 7c41e0d25f0a9b83c6d24e20" in seen.all("#certificates tr")[0]

        stage.show(scenes.broken())
        seen.says("Not ready: no epoch serves.")
        assert seen.run("() => document.body.dataset.tone") == "bad"
        assert seen.page.is_visible("#epochs-none")
        assert seen.page.title() == "Not ready · edge-7"


def test_crashes_are_a_trouble_and_told_apart(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.crashed())
    with tab(chromium, stage.url) as seen:
        seen.says("Ready. Epoch 8 serves.")
        seen.has("#troubles", "2 crashes in the last hour, the last one: epoch 7 was killed by SIGSEGV after 12.0 s.")
        assert seen.run("() => document.body.dataset.tone") == "bad"
        assert seen.all("#rotations .attempt .badge") == ["serving", "crashed", "crashed", "crashed"]
        assert "3 crashes" in seen.text("#week-words")
        assert "Nobody lost" not in seen.text("#outlook")
        assert "It ran out of memory after 12.0 s." in seen.text("#rotations")


# Many certificates


def rows(seen: Tab) -> list[str]:
    """The names in the table of certificates."""
    return seen.all("#certificates .set")


def test_five_hundred_certificates_take_the_place_of_fifty(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    heights = []
    for scene in (scenes.fifty(), scenes.five_hundred()):
        stage.show(scene)
        with tab(chromium, stage.url) as seen:
            seen.has("#contact", "live")
            heights.append(seen.run("() => document.documentElement.scrollHeight"))
            assert rows(seen)[:6] == ["blog", "shop", "ended", "urgent", "soon-1", "soon-2"]
            assert len(rows(seen)) == 7
            assert seen.run("() => document.body.dataset.tone") == "bad"
            assert seen.page.title() == "Ready, with trouble · edge-7"
            seen.has("#troubles", "4 certificates need renewal; that of ended ended at")
            assert "The next certificate to end is urgent: in 1 d 4 h" in seen.text("#outlook")
            count = len(scene.certificates)
            assert (
                seen.text("#strip-words")
                == f"{count} certificates: 1 ended, 1 urgent, 2 end soon and {count - 4} do not."
            )
    assert heights[0] == heights[1]


def test_alike_certificates_are_one_row_that_opens(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.five_hundred())
    with tab(chromium, stage.url) as seen:
        seen.has("#certificates", "494 certificates alike")
        group = seen.page.get_by_role("button", name="494 certificates alike")
        assert group.get_attribute("aria-expanded") == "false"
        group.focus()
        seen.page.keyboard.press("Enter")
        assert group.get_attribute("aria-expanded") == "true"
        assert len(rows(seen)) == 50
        assert rows(seen)[7] == "site000.example", "the next to end"
        more = seen.page.get_by_role("button", name="Show 50 of 451 more")
        more.click()
        assert len(rows(seen)) == 100
        stage.show(scenes.five_hundred())
        seen.has("#certificates-more", "Show 50 of 401 more")
        assert len(rows(seen)) == 100, "it stays open"
        group.click()
        assert len(rows(seen)) == 7


def test_a_filter_finds_names_issuers_serials_and_states(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.five_hundred())
    with tab(chromium, stage.url) as seen:
        seen.has("#certificates-found", "500 certificates")
        box = seen.page.get_by_label("Filter")
        box.fill("SITE01")
        assert rows(seen) == [f"site01{number}.example" for number in range(10)]
        assert seen.text("#certificates-found") == "10 of 500 certificates"
        box.fill("refused")
        assert rows(seen) == ["blog", "shop"]
        box.fill("site03 dns:site031.example")
        assert rows(seen) == ["site031.example"]
        box.fill("nothing has this name")
        assert seen.text("#certificates-found") == "0 of 500 certificates"
        assert not seen.page.is_visible("#certificates-table")
        box.fill("")
        assert len(rows(seen)) == 7


def test_a_week_and_the_time_of_changes_are_told_in_words(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    stage.show(scenes.fifty())
    with tab(chromium, stage.url) as seen:
        seen.has("#week-words", "37 rotations, 2 refused or failed and 1 crash in the last 7 days.")
        assert [len(seen.page.locator(".lane").nth(at).locator(".pin").all()) for at in range(3)] == [37, 2, 1]
        assert seen.text("#reactions-words") == "Of 38 changes, half served within 1.2 s, the slowest after 2.2 s."
        assert [count for count in seen.all(".pile-count") if count] == ["6", "11", "16", "5"]
        assert len(seen.all("#rotations tr")) == 5
        assert "and 27 more" in seen.all("#rotations tr")[0]
        seen.page.get_by_role("button", name="Show 35 more").click()
        assert len(seen.all("#rotations tr")) == 40


CASES = [(90, 14.1), (90, 13.9), (90, 1.9), (90, -1), (1, 0.3), (1, 0.19), (1, 0.04), (6, 2), (30, 5.9), (39, 1.96)]


def test_the_page_and_the_command_line_agree_about_urgency(chromium: Any, stage: Stage) -> None:  # noqa: ANN401
    now = datetime.now(UTC)
    with tab(chromium, stage.url) as seen:
        seen.says("Ready")
        for life, left in CASES:
            end = now + timedelta(days=left)
            begin = end - timedelta(days=life)
            facts = {"not_before": begin.isoformat(), "not_after": end.isoformat()}
            shown = seen.run(f"() => expiry({json.dumps(facts)}, {now.timestamp() * 1000})")
            assert shown == expiry(begin, end, now).value, (life, left)


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
            "words.js",
            "charts.js",
            "script.js",
            "icon.svg",
            "events",
        }


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
@pytest.mark.parametrize("scene", [scenes.calm, scenes.refused, scenes.broken, scenes.fifty, scenes.five_hundred])
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
        for _ in range(7):
            seen.page.keyboard.press("Tab")
            reached.append(
                seen.run(
                    "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
                )
            )
            assert seen.run("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
        links = ["status as JSON", "its schema", "metrics", "statistics"]
        assert reached == ["details of api", "details of web", "details of epoch 7", *links]
        seen.page.locator("summary").first.focus()
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
