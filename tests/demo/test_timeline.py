from agent.demo.journal import CANDIDATE, DRAINING, SERVING, Epoch
from agent.demo.timeline import DEAD, GONE, Timeline, row


def observed(*looks: dict[int, str]) -> Timeline:
    """Return a timeline of these states, one second apart, from second 100 on."""
    timeline = Timeline()
    for at, look in enumerate(looks, start=100):
        timeline.observe([Epoch(number, state, 1) for number, state in look.items()], float(at))
    return timeline


def drawn(timeline: Timeline, number: int, end: float, width: int = 6) -> str:
    return row(timeline.lives[number], end, 1.0, width)


def test_an_epoch_is_followed_from_its_start_to_its_end() -> None:
    timeline = observed(
        {1: CANDIDATE}, {1: SERVING}, {1: SERVING, 2: CANDIDATE}, {1: DRAINING, 2: SERVING}, {2: SERVING}
    )
    assert timeline.lives[1].state == GONE
    assert timeline.lives[2].state == SERVING
    assert drawn(timeline, 1, end=105.0) == "░██▒  "
    assert drawn(timeline, 2, end=105.0) == "  ░███"


def test_time_moves_everything_to_the_left() -> None:
    timeline = observed({1: CANDIDATE}, {1: SERVING})
    assert drawn(timeline, 1, end=103.0) == "  ░███"
    assert drawn(timeline, 1, end=104.9) == " ░████"
    assert drawn(timeline, 1, end=120.0) == "██████"


def test_an_epoch_that_vanishes_while_it_serves_has_died() -> None:
    timeline = observed({1: SERVING}, {})
    assert timeline.lives[1].state == DEAD
    assert drawn(timeline, 1, end=103.0) == "  █✗  "


def test_a_candidate_that_leaves_was_dropped_whatever_it_is_called_meanwhile() -> None:
    timeline = observed({1: SERVING, 2: CANDIDATE}, {1: SERVING, 2: DRAINING}, {1: SERVING})
    assert drawn(timeline, 2, end=103.0) == "  ░✗  "


def test_what_was_shorter_than_a_cell_still_gets_one() -> None:
    timeline = Timeline()
    for at, state in ((100.0, CANDIDATE), (100.1, SERVING), (100.2, DRAINING)):
        timeline.observe([Epoch(1, state, 1)], at)
    assert drawn(timeline, 1, end=104.0) == " ░█▒▒▒"


def test_the_newest_epochs_come_first_and_know_their_certificate() -> None:
    timeline = observed({1: SERVING, 2: CANDIDATE, 3: CANDIDATE})
    timeline.serves(3, "4a3f")
    timeline.serves(None, "no epoch was named")
    timeline.serves(99, "nobody knows it")
    assert [(life.number, life.serial) for life in timeline.latest(2)] == [(3, "4a3f"), (2, "")]


def test_old_lives_are_forgotten() -> None:
    timeline = Timeline()
    for number in range(1000):
        timeline.observe([Epoch(number, SERVING, 1)], float(number))
    assert len(timeline.lives) <= 101
    assert timeline.latest(1)[0].number == 999
