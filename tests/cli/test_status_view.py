from dataclasses import replace
from datetime import timedelta

import pytest

from agent.cli.status_view import answer, brief, draw, number_of, total
from agent.status.model import (
    AttemptView,
    Authorities,
    Blocked,
    CertificateSet,
    Change,
    EpochView,
    Facts,
    ListenerView,
    Phase,
    RejectedFile,
    Status,
)
from tests.cli.sheets import lines, sheet, styled, styles
from tests.status.sample import NOW, ago, facts

DAY = timedelta(days=1)
WEB = facts("1f02", 60 * DAY)
API = facts("2a", 3 * DAY, "api.example")
EPOCH = EpochView(7, "serving", "serving", "2d1e", 107, ago(61), ago(60), None, None, None, 52 << 20)


def a_set(served: Facts | None = WEB, disk: Facts | None = WEB, **more: object) -> CertificateSet:
    plain = CertificateSet("web", "/c/web.crt", "/c/web.key", served, disk)
    return replace(plain, **more)  # type: ignore[arg-type]


def status(**more: object) -> Status:
    plain = Status(NOW, "0.1.0", 4321, ago(7_200), True, "", "", 7, (EPOCH,), (a_set(),))
    return replace(plain, **more)  # type: ignore[arg-type]


def drawn(told: Status, *, whole: bool = False) -> list[str]:
    return lines(lambda table: draw(told, table, whole=whole))


def section(told: Status, title: str, *, whole: bool = False) -> list[str]:
    """The lines of a section; none if it is not there."""
    found = drawn(told, whole=whole)
    for at, line in enumerate(found[:-1]):
        if not line and title in found[at + 1]:
            rest = found[at + 2 :]
            return rest[: rest.index("")]
    return []


def style_of(told: Status, part: str) -> set[str]:
    table = sheet(terminal=True)
    draw(told, table)
    return {style for words, style in styled(table) if part in words}


# The answer


@pytest.mark.parametrize(
    ("told", "words", "others"),
    [
        (status(), ["ready", "epoch 7", "2026-07-03 12:00Z"], ["left", "refused", "hung", "not ready"]),
        (status(certificates=(a_set(), a_set(API))), ["2026-05-07 12:00Z"], ["2026-07"]),
        (status(certificates=(a_set(None), a_set(API))), ["2026-05-07 12:00Z"], []),
        (status(certificates=()), ["epoch 7"], ["2026", "until"]),
        (status(certificates=(a_set(None),)), ["epoch 7"], ["2026"]),
        (status(refused=(RejectedFile("/a", "empty", "m"),)), ["1 file refused"], ["hung"]),
        (status(refused=(RejectedFile("/a", "empty", "m"),) * 2, hung=True), ["2 files refused", "hung"], []),
        (status(ready=False, reason="it starts"), ["not ready", "it starts"], ["epoch", "2026"]),
        (status(ready=False, hung=True, refused=(RejectedFile("/a", "empty", "m"),)), ["not ready"], ["refused"]),
    ],
)
def test_the_answer_is_a_sentence_of_what_serves_and_how_long(
    told: Status, words: list[str], others: list[str]
) -> None:
    text = answer(told)
    assert [word for word in words if word not in text] == []
    assert [word for word in others if word in text] == []


def test_the_answer_does_not_change_with_time_alone() -> None:
    assert answer(status()) == answer(status(at=NOW + DAY))


@pytest.mark.parametrize(
    ("told", "style"),
    [
        (status(), "bold green"),
        (status(hung=True), "bold yellow"),
        (status(out_of_sync_since=NOW), "bold yellow"),
        (status(refused=(RejectedFile("/a", "empty", "m"),)), "bold yellow"),
        (status(ready=False), "bold red"),
        (status(ready=False, hung=True), "bold red"),
    ],
)
def test_the_first_line_has_the_time_left_and_the_colour_of_the_state(told: Status, style: str) -> None:
    first = drawn(told)[0]
    assert ("60 days left" in first) is told.ready
    assert "refused" not in first
    assert style_of(told, first) == {style}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (status(), []),
        (status(hung=True), ["hangs"]),
        (status(refused=(RejectedFile("/a", "empty", "m"),) * 3), ["3 files"]),
        (status(out_of_sync_since=ago(300)), ["5 min"]),
        (status(out_of_sync_since=ago(300), epoch=None), []),
        (
            status(hung=True, refused=(RejectedFile("/a", "empty", "m"),), out_of_sync_since=ago(9)),
            ["hangs", "1 f", "9.0"],
        ),
    ],
)
def test_every_worry_is_a_line_below_it(told: Status, words: list[str]) -> None:
    worries = drawn(told)[1:]
    worries = worries[: worries.index("")]
    assert len(worries) == len(words)
    assert all(word in line for word, line in zip(words, worries, strict=True))


# Refused files


def test_without_refused_files_there_is_no_section() -> None:
    assert section(status(), "refused") == []


@pytest.mark.parametrize(
    ("refused", "first", "rows"),
    [
        (RejectedFile("/c/web.crt", "mismatch", "no", "web"), "web: ", 2),
        (RejectedFile("/c/web.crt", "mismatch", "no"), "web: ", 2),
        (RejectedFile("/c/web.key", "mismatch", "no"), "web: ", 2),
        (RejectedFile("/c/ca.crt", "mismatch", "no"), "web: ", 2),
        (RejectedFile("/c/x", "mismatch", "no", "other"), "other: ", 0),
        (RejectedFile("/c/x", "mismatch", "no"), "/c/x: ", 0),
    ],
)
def test_a_refused_file_is_shown_with_the_certificates_of_its_set(refused: RejectedFile, first: str, rows: int) -> None:
    item = a_set(API, WEB, bundles=(Authorities("/c/ca.crt", 1, None),))
    found = section(status(certificates=(a_set(name="x", chain="/x", key=None), item), refused=(refused,)), "refused")
    assert (found[0].startswith(first), found[1], len(found)) == (True, "no", 2 + rows)
    if rows:
        assert all(word in found[2] for word in ("2a", "2026-05-07 12:00Z", "3 days left"))
        assert all(word in found[3] for word in ("1f02", "2026-07-03 12:00Z", "60 days left"))


def test_of_a_set_without_a_chain_no_certificates_are_compared() -> None:
    told = status(certificates=(a_set(chain=None),), refused=(RejectedFile("/c/web.key", "x", "no", "web"),))
    assert len(section(told, "refused")) == 2


def test_a_certificate_that_is_not_there_is_said_to_be_none() -> None:
    told = status(certificates=(a_set(None, None),), refused=(RejectedFile("/c/web.key", "x", "no", "web"),))
    assert not any(word in line for line in section(told, "refused")[2:] for word in ("serial", "2026"))


@pytest.mark.parametrize(
    "reason",
    [
        "missing", "unreadable", "empty", "incomplete", "unparsable", "mismatch", "expired", "not_yet_valid",
        "lost_own_ca", "tied", "configuration", "program", "proxy", "full_moon",
    ],
)  # fmt: skip
def test_every_reason_is_in_words(reason: str) -> None:
    (first, _) = section(status(refused=(RejectedFile("/x", reason, "no"),)), "refused")
    assert "_" not in first
    assert (first == f"/x: {reason.replace('_', ' ')}") is (reason == "full_moon")


@pytest.mark.parametrize(("whole", "count"), [(False, 5), (True, 40)])
def test_of_many_refused_files_a_few_are_explained(whole: bool, count: int) -> None:
    files = tuple(RejectedFile(f"/c/{number}.crt", "mismatch", f"it is number {number}") for number in range(40))
    found = section(status(refused=files), "refused", whole=whole)
    assert len([line for line in found if line.startswith("it is number")]) == count
    assert [line for line in found if "more" in line] == ([] if whole else ["and 35 more files: agent status --all"])


# What it waits for


@pytest.mark.parametrize("blocked", [*Blocked, "full_moon"])
def test_every_wait_is_in_words(blocked: str) -> None:
    (line,) = section(status(blocked=(blocked,)), "wait")
    assert ("_" in line, line == blocked) == ((True, True) if blocked == "full_moon" else (False, False))


@pytest.mark.parametrize(
    ("blocked", "more", "words"),
    [
        ("paused", {"paused_until": NOW + DAY}, "2026-05-05 12:00:00Z"),
        ("window", {"paused_until": NOW + DAY}, ""),
        ("retry", {}, "killed by SIGKILL"),
        ("drains", {}, ""),
    ],
)
def test_a_wait_is_explained_by_what_is_known_of_it(blocked: str, more: dict[str, object], words: str) -> None:
    failed = AttemptView(8, "crash", "failed", "killed by SIGKILL", NOW, "r", None)
    rotations = (replace(failed, outcome="dropped", reason="superseded"), failed, replace(failed, reason="older"))
    (line,) = section(status(blocked=(blocked,), rotations=rotations, **more), "wait")
    assert words in line
    assert [word for word in ("SIGKILL", "2026", "superseded", "older") if word in line and word not in words] == []


def test_a_wait_without_details_is_no_crash() -> None:
    found = section(status(blocked=(Blocked.PAUSED, Blocked.RETRY)), "wait")
    assert (len(found), ":" in found[1]) == (2, False)


@pytest.mark.parametrize("blocked", ["refused_files", "refused_configuration", "refused_program", "refused_by_proxy"])
def test_what_serves_on_is_said_while_something_serves(blocked: str) -> None:
    (serving,) = section(status(blocked=(blocked,)), "wait")
    (without,) = section(status(blocked=(blocked,), epoch=None), "wait")
    assert (len(serving) > len(without)) is (blocked != "refused_by_proxy")
    assert serving.startswith(without)


# Epochs


def epoch(**more: object) -> str:
    (line,) = section(status(epochs=(replace(EPOCH, **more),)), "epochs")  # type: ignore[arg-type]
    return line


@pytest.mark.parametrize(
    ("more", "words", "others"),
    [
        ({}, ["7 serving", "60 s", "pid 107", "52 MB"], ["connections", "in "]),
        ({"pid": None, "memory": None}, ["7 serving"], ["pid", "MB"]),
        ({"pid": 0, "memory": 0}, ["pid 0", "0 MB"], []),
        ({"state": "candidate", "stage": "starting"}, ["candidate", "starting"], ["serving"]),
        ({"state": "candidate", "stage": "waiting"}, ["gate"], ["waiting"]),
        ({"state": "candidate", "stage": "candidate"}, ["7 candidate for"], []),
        ({"state": "candidate", "deadline": NOW + timedelta(seconds=29)}, ["in 29 s"], []),
        ({"state": "draining", "connections": 3, "connections_at_first": 1200}, ["3 of 1,200 connections"], []),
        ({"state": "draining", "connections": 1200, "connections_at_first": None}, ["1,200 connections"], [" of "]),
        ({"state": "draining", "connections": 0, "connections_at_first": 0}, ["0 connections"], [" of "]),
        ({"state": "draining"}, ["unknown"], ["0"]),
        ({"state": "draining", "stage": "leaving", "deadline": NOW + 2 * DAY}, ["in 2 days"], ["leaving"]),
        ({"state": "odd", "stage": "odd"}, ["7 odd"], []),
    ],
)
def test_an_epoch_is_a_line(more: dict[str, object], words: list[str], others: list[str]) -> None:
    line = epoch(**more)
    assert [word for word in words if word not in line] == []
    assert [word for word in others if word in line.replace("60 s", "").replace("107", "")] == []


def test_a_drain_is_cut_and_a_candidate_given_up() -> None:
    cut, given_up = (epoch(state=state, deadline=NOW) for state in ("draining", "candidate"))
    assert cut.partition(" in ")[0].split()[-1] != given_up.partition(" in ")[0].split()[-1]


def test_epochs_are_newest_first_and_what_a_candidate_awaits_stands_below_it() -> None:
    candidate = replace(EPOCH, number=8, state="candidate", stage="waiting", awaits="clusters of ads")
    found = section(status(epochs=(EPOCH, candidate)), "epochs")
    assert [line.split()[0] for line in found] == ["8", "clusters", "7"]
    assert style_of(status(epochs=(candidate,)), "clusters") == {"yellow"}


def test_without_epochs_there_is_a_line_too() -> None:
    assert len(section(status(epochs=()), "epochs")) == 1


@pytest.mark.parametrize(
    ("connections", "at_first", "full"), [(10, 10, 0), (5, 10, 8), (0, 10, 16), (None, 10, 0), (5, None, 0), (0, 0, 0)]
)
def test_a_terminal_has_a_bar_of_the_connections_that_have_closed(
    connections: int | None, at_first: int | None, full: int
) -> None:
    drains = replace(EPOCH, state="draining", connections=connections, connections_at_first=at_first)
    table = sheet(terminal=True)
    draw(status(epochs=(drains,)), table)
    (line,) = [line for line in table.lines if line.plain.strip().startswith("7")]
    bars = [(len(words), style) for words, style in styles(line) if set(words) == {"\N{BOX DRAWINGS HEAVY HORIZONTAL}"}]
    assert bars == [each for each in ((full, "yellow"), (16 - full, "dim")) if each[0]]


def test_an_epoch_that_does_not_drain_has_no_bar() -> None:
    table = sheet(terminal=True)
    draw(status(certificates=()), table)
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in "".join(line.plain for line in table.lines)


# Listeners


def test_a_listener_has_its_queue_and_its_workers() -> None:
    views = (ListenerView("tcp://[::]:1", 2, 1200), ListenerView("tcp://[::]:2", 1, 1), ListenerView("unix:///s", 0, 0))
    found = section(status(listeners=(*views, ListenerView("unix:///t", 1, None))), "listeners")
    assert [line.split()[0] for line in found] == ["tcp://[::]:1", "tcp://[::]:2", "unix:///s", "unix:///t"]
    assert ["1,200" in found[0], "1 client " in found[1], "no client" in found[2]] == [True, True, True]
    workers = [" ".join(line.split()[-2:]) for line in found]
    assert workers == ["2 workers", "1 worker", "0 workers", "1 worker"]
    assert section(status(), "listeners") == []
    assert style_of(status(listeners=views), "1,200") == {"yellow"}
    assert style_of(status(listeners=views[2:]), "no client") <= {"dim"}


@pytest.mark.parametrize(("whole", "count"), [(False, 10), (True, 40)])
def test_of_many_listeners_the_busiest_are_listed(whole: bool, count: int) -> None:
    views = tuple(ListenerView(f"tcp://[::]:{port}", 1, port) for port in range(40))
    found = section(status(listeners=views), "listeners", whole=whole)
    assert found[0].split()[0] == ("tcp://[::]:0" if whole else "tcp://[::]:39")
    assert found[count:] == ([] if whole else ["and 30 more: agent status --all"])


# Rotations

ATTEMPT = AttemptView(7, "certificate", "serving", "", ago(61), "2d1e", "1d1e")


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (ATTEMPT, ""),
        (replace(ATTEMPT, phases=(Phase("start", 0.09),)), "90 ms"),
        (replace(ATTEMPT, phases=(Phase("start", 0.09),), outcome="running"), ""),
        (replace(ATTEMPT, phases=(Phase("start", 1.0), Phase("drain", 60.0), Phase("open", 0.5))), "1.5 s"),
        (
            replace(
                ATTEMPT, phases=(Phase("a", 1),), changes=(Change("web", None, "1f" * 9), Change("api", "2", None))
            ),
            "1.0 s, web none -> 1f1f1f1f…, api 2 -> none",
        ),
    ],
)
def test_an_attempt_is_brief_about_its_time_and_its_changes(attempt: AttemptView, text: str) -> None:
    assert brief(attempt) == text


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (4, 4), (5, 3), (500, 3)])
def test_of_many_changes_a_few_are_named(count: int, shown: int) -> None:
    text = brief(replace(ATTEMPT, changes=tuple(Change(f"site{number}", "1", "2") for number in range(count))))
    assert text.count("site") == shown
    assert text.endswith(f", and {count - 3} more") is (shown < count)


def test_the_drain_is_not_part_of_an_attempts_time() -> None:
    phases = tuple(Phase(name, 2.0) for name in ("launch", "start", "judge", "open", "handover", "drain"))
    assert total(replace(ATTEMPT, phases=phases)) == 10.0
    assert total(ATTEMPT) == 0


def test_the_last_five_rotations_are_lines() -> None:
    attempts = [replace(ATTEMPT, epoch=number) for number in range(20, 10, -1)]
    attempts[1] = replace(ATTEMPT, epoch=19, outcome="failed", reason="no such file", phases=(Phase("start", 9),))
    attempts[2] = replace(ATTEMPT, epoch=18, began_at=ago(86_400), changes=(Change("web", "1", "2"),))
    found = section(status(rotations=tuple(attempts)), "rotations")
    assert found == [
        "11:58:59Z 20 certificate succeeded",
        "11:58:59Z 19 certificate failed no such file",
        "2026-05-03 12:00:00Z 18 certificate succeeded web 1 -> 2",
        "11:58:59Z 17 certificate succeeded",
        "11:58:59Z 16 certificate succeeded",
    ]
    assert section(status(), "rotations") == []
    assert style_of(status(rotations=tuple(attempts)), "failed") == {"red"}


# The agent


def test_the_last_line_is_of_the_agent() -> None:
    last = drawn(status())[-1]
    assert all(word in last for word in ("0.1.0", "4321", "2 h"))
    assert "inotify" not in last
    assert "polling" in drawn(status(watch="polling"))[-1]


def test_a_push_is_numbered_behind_its_epoch() -> None:
    assert (number_of(ATTEMPT), number_of(replace(ATTEMPT, push=3))) == ("7", "7.3")
