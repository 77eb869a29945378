import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.metrics.aggregate import summed
from agent.metrics.parser import Exposition
from agent.metrics.totals import EpochTotals
from tests.metrics.expositions import histogram, of


def counter(value: int, name: str = "a") -> Exposition:
    """One counter."""
    return of(f"# TYPE {name} counter", f"{name} {value}")


def total(lineage: EpochTotals, serving: int | None = None, answered: Iterable[int] = ()) -> float:
    """What one counter stands at."""
    family = summed(lineage.parts(serving, set(answered))).families.get("a")
    return 0 if family is None else float(family.samples["a"])


lives = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["see", "reset", "retire", "return"]), st.integers(0, 9)), max_size=30
)


@given(lives)
@settings(max_examples=60)
def test_totals_never_fall_and_miss_no_count(steps: list[tuple[int, str, int]]) -> None:
    lineage, seen, gone, before, counted = EpochTotals(), dict[int, int](), set[int](), 0.0, 0
    for epoch, step, grown in steps:
        if step == "retire":
            lineage.retire(epoch)
            gone.add(epoch)
        elif step == "return":
            lineage = EpochTotals.from_state(lineage.to_state())
        else:
            value = min(grown, seen.get(epoch, 0)) if step == "reset" else seen.get(epoch, 0) + grown
            if epoch not in gone:
                counted += value if value < seen.get(epoch, 0) else value - seen.get(epoch, 0)
                seen[epoch] = value
            lineage.see(epoch, counter(value))
        now = total(lineage, epoch, {epoch})
        assert now >= before
        assert now == counted
        before = now


def test_a_series_that_disappears_keeps_its_count() -> None:
    lineage = EpochTotals()
    lineage.see(1, of("# TYPE a counter", "a 1", 'a{b="c"} 2', *histogram({"1": 1, "+Inf": 2})))
    lineage.see(1, counter(3))
    sums = summed(lineage.parts(1, {1}))
    assert sums.families["a"].samples == {"a": 3, 'a{b="c"}': 2}
    assert sums.families["h"].samples["h_count{}"] == 2


def test_gauges_end_with_their_epoch() -> None:
    lineage = EpochTotals()
    lineage.see(1, of("# TYPE x_cx_active gauge", "x_cx_active 1", "# TYPE g gauge", "g 1"))
    assert set(summed(lineage.parts(1, {1})).families) == {"x_cx_active", "g"}
    assert not summed(lineage.parts(1, ())).families
    lineage.retire(1)
    assert not summed(lineage.parts(2, ())).families


def test_counts_of_exited_epochs_are_bounded() -> None:
    lineage = EpochTotals(limit=2_100)
    for epoch in range(1, 31):
        lineage.see(epoch, counter(1, f"a{epoch % 20}"))
        lineage.retire(epoch)
    sums = summed(lineage.parts(None, ()))
    assert len(sums.families) == 10
    assert sums.families["a1"].samples == {"a1": 2}
    assert lineage.dropped == 20 - 10


def samples(totals: EpochTotals, name: str, serving: int | None = None, answered: Iterable[int] = ()) -> dict[str, Any]:
    """The samples of one family in the sum."""
    family = summed(totals.parts(serving, set(answered))).families.get(name)
    return {} if family is None else dict(family.samples)


# Epochs


def test_an_epoch_that_was_scraped_and_has_not_exited_is_live() -> None:
    totals = EpochTotals()
    first, second = counter(1), counter(2)
    totals.see(1, first)
    totals.see(2, second)
    totals.see(2, second)
    assert (set(totals.live), totals.of(1), totals.of(2), totals.of(3)) == ({1, 2}, first, second, None)
    totals.retire(1)
    assert (set(totals.live), totals.of(1)) == ({2}, None)


def test_an_exposition_that_comes_after_the_exit_is_ignored() -> None:
    totals = EpochTotals()
    totals.see(1, counter(3))
    assert totals.retire(1)
    totals.see(1, counter(3))
    assert not totals.live
    assert not totals.retire(1)
    assert total(totals) == 3


def test_an_epoch_that_exits_before_any_metrics_is_remembered_as_exited() -> None:
    totals = EpochTotals()
    assert not totals.retire(1)
    totals.see(1, counter(3))
    assert total(totals) == 0


def test_an_epoch_that_exits_twice_takes_one_place_among_the_64_that_are_remembered() -> None:
    totals = EpochTotals()
    for epoch in range(1, 65):
        totals.retire(epoch)
    for _ in range(3):
        totals.retire(64)
    totals.see(1, counter(3))
    assert not totals.live
    totals.retire(65)
    totals.see(2, counter(3))
    assert not totals.live
    totals.see(1, counter(3))
    assert set(totals.live) == {1}


def test_a_forgotten_epoch_is_counted_elsewhere() -> None:
    totals = EpochTotals()
    totals.see(1, counter(3))
    totals.forget(1)
    totals.forget(2)
    assert (total(totals), totals.retire(1)) == (0, False)


def test_a_forgotten_epoch_may_be_scraped_again() -> None:
    totals = EpochTotals()
    totals.forget(1)
    totals.see(1, counter(3))
    assert total(totals, 1, {1}) == 3


# Which source gives what


def gauge(value: int) -> Exposition:
    """A gauge of one epoch, a gauge of them all, and a counter."""
    return of("# TYPE g gauge", f"g {value}", "# TYPE x_cx_active gauge", f"x_cx_active {value}", *counted(value))


def counted(value: int) -> tuple[str, str]:
    """Two lines of a counter."""
    return "# TYPE a counter", f"a {value}"


def figures(
    totals: EpochTotals, serving: int | None, answered: Iterable[int], shared: Exposition | None = None
) -> list[float | None]:
    """The gauge, the summed gauge and the counter."""
    families = summed(totals.parts(serving, set(answered), shared)).families
    return [float(families[name].samples[name]) if name in families else None for name in ("g", "x_cx_active", "a")]


@pytest.mark.parametrize(
    ("serving", "answered", "shared", "expected"),
    [
        (1, {1, 2}, None, [1, 3, 3]),
        (2, {1, 2}, None, [2, 3, 3]),
        (2, {1, 2, 9}, None, [2, 3, 3]),
        (1, {1}, None, [1, 1, 3]),
        (1, {2}, None, [None, 2, 3]),
        (1, (), None, [None, None, 3]),
        (None, {1, 2}, None, [None, 3, 3]),
        (None, (), None, [None, None, 3]),
        (1, {1, 2}, 4, [1, 7, 7]),
        (1, {2}, 4, [None, 6, 7]),
        (3, {1, 2}, 4, [4, 7, 7]),
        (3, (), 4, [4, 4, 7]),
        (3, {1, 2}, None, [None, 3, 3]),
        (None, {1}, 4, [4, 5, 7]),
    ],
)
def test_gauges_are_those_of_the_serving_epoch_and_counters_those_of_all(
    serving: int | None, answered: set[int], shared: int | None, expected: list[float | None]
) -> None:
    totals = EpochTotals()
    totals.see(1, gauge(1))
    totals.see(2, gauge(2))
    assert figures(totals, serving, answered, None if shared is None else gauge(shared)) == expected


# Counts that fall


@pytest.mark.parametrize(("before", "now", "expected"), [(5, 2, 7), (5, 5, 5), (5, 6, 6), (5, 0, 5), (0, 0, 0)])
def test_a_counter_that_fell_was_reset(before: int, now: int, expected: int) -> None:
    totals = EpochTotals()
    totals.see(1, counter(before))
    totals.see(1, counter(now))
    assert total(totals, 1, {1}) == expected


def test_a_reset_is_noticed_by_the_number_and_not_by_the_text() -> None:
    totals = EpochTotals()
    for text in ("9", "10", "1e1", "10.0"):
        totals.see(1, of("# TYPE a counter", f"a {text}"))
    assert total(totals, 1, {1}) == 10


def test_a_family_that_disappears_or_changes_its_kind_keeps_its_counts() -> None:
    totals = EpochTotals()
    totals.see(1, counter(4))
    totals.see(1, of("# TYPE b counter", "b 1"))
    assert total(totals, 1, {1}) == 4
    totals.see(1, of("# TYPE b gauge", "b 1"))
    totals.see(1, of("# TYPE b counter", "b 2"))
    assert samples(totals, "b", 1, {1}) == {"b": 2}


def test_a_gauge_that_falls_or_disappears_is_not_kept() -> None:
    totals = EpochTotals()
    totals.see(1, of("# TYPE x_cx_active gauge", "x_cx_active 5", "u 1"))
    totals.see(1, of("# TYPE x_cx_active gauge", "x_cx_active 2"))
    assert samples(totals, "x_cx_active", 1, {1}) == {"x_cx_active": "2"}
    totals.see(1, Exposition())
    assert not summed(totals.parts(1, {1})).families


def test_the_sum_of_a_histogram_may_fall_with_negative_observations() -> None:
    totals = EpochTotals()
    for figure in (5, 2):
        totals.see(1, of("# TYPE h histogram", 'h_bucket{le="+Inf"} 3', f"h_sum {figure}", f"h_count {figure}"))
    assert samples(totals, "h", 1, {1})["h_sum"] == 2


# Exited epochs


def test_of_an_exited_epoch_counts_stay_and_quantiles_and_zeros_go() -> None:
    totals = EpochTotals()
    totals.see(
        1,
        of(
            "# TYPE a counter", "a 0", 'a{b="c"} 2',
            "# TYPE z counter", "z 0",
            "# TYPE s summary", 's{quantile="0.5"} 7', "s_sum 3", "s_count 2",
            *histogram({"1": 0, "+Inf": 2}),
            "# TYPE e histogram", 'e_bucket{le="+Inf"} 0', "e_sum 0", "e_count 0",
            "u 1",
        ),
    )  # fmt: skip
    totals.retire(1)
    assert totals.to_state()["gone"] == {
        "a": ["counter", {'a{b="c"}': 2}],
        "s": ["summary", {"s_sum": 3, "s_count": 2}],
        "h": ["histogram", {'h_bucket{le="1"}': 0, 'h_bucket{le="+Inf"}': 2, "h_sum{}": 1.5, "h_count{}": 2}],
    }


def test_a_known_series_is_counted_though_a_new_one_beside_it_exceeds_the_limit() -> None:
    totals = EpochTotals(limit=210)
    for epoch, lines in enumerate((("a 5",), ("a 6", 'a{b="c"} 1', 'a{b="d"} 1')), start=1):
        totals.see(epoch, of("# TYPE a counter", *lines))
        totals.retire(epoch)
    assert samples(totals, "a") == {"a": 11}
    assert totals.dropped == 2


@pytest.mark.parametrize(("limit", "kept", "dropped"), [(201, 1, 1), (200, 0, 2), (402, 2, 0), (401, 1, 1), (0, 0, 2)])
def test_a_series_takes_200_bytes_and_its_name(limit: int, kept: int, dropped: int) -> None:
    totals = EpochTotals(limit)
    for epoch, name in enumerate("ab"):
        totals.see(epoch, counter(1, name))
        totals.retire(epoch)
    assert (len(summed(totals.parts(None, ())).families), totals.dropped) == (kept, dropped)


def test_the_room_is_shared_by_the_families_of_one_epoch() -> None:
    totals = EpochTotals(limit=402)
    totals.see(1, of(*(line for name in "abc" for line in (f"# TYPE {name} counter", f"{name} 1"))))
    totals.retire(1)
    assert list(summed(totals.parts(None, ())).families) == ["a", "b"]
    assert totals.dropped == 1


def test_a_histogram_with_other_bounds_adds_up_at_the_known_ones_beyond_the_limit() -> None:
    totals = EpochTotals(limit=4 * 200 + 51)
    for epoch, bounds in enumerate(({"1": 1, "+Inf": 2}, {"1": 3, "5": 4, "+Inf": 5})):
        totals.see(epoch, of(*histogram(bounds)))
        totals.retire(epoch)
    assert samples(totals, "h") == {'h_bucket{le="1"}': 4, 'h_bucket{le="+Inf"}': 7, "h_sum{}": 3.0, "h_count{}": 7}
    assert totals.dropped == 1


# State


def test_the_state_is_json_and_restores_every_count() -> None:
    totals = EpochTotals()
    for epoch in (1, 2):
        totals.see(epoch, of(*counted(epoch), *histogram({"+Inf": 1}), "# TYPE g gauge", "g 1"))
    totals.retire(1)
    state = json.loads(json.dumps(totals.to_state()))
    restored = EpochTotals.from_state(state)
    assert (total(restored), set(restored.live)) == (3, {2})
    assert samples(restored, "h") == {'h_bucket{le="+Inf"}': 2, "h_sum{}": 3.0, "h_count{}": 2}
    assert not samples(restored, "g", 2, {2})
    restored.see(1, counter(100))
    assert total(restored) == 3
    assert restored.to_state() == state


EMPTY: dict[str, Any] = {"gone": {}, "live": {}, "retired": []}


def test_the_smallest_state_is_of_no_epochs() -> None:
    assert EpochTotals.from_state(EMPTY).to_state() == EMPTY


@pytest.mark.parametrize(
    "changes",
    [
        {"gone": None},
        {"gone": []},
        {"gone": {"a": None}},
        {"gone": {"a": []}},
        {"gone": {"a": ["counter"]}},
        {"gone": {"a": ["counter", {"a": 1}, 1]}},
        {"gone": {"a": ["spoon", {"a": 1}]}},
        {"gone": {"a": ["counter", ["a"]]}},
        {"gone": {"a": ["counter", {"a": "1"}]}},
        {"gone": {"a": ["counter", {"a": None}]}},
        {"gone": {"a": ["counter", {"a": True}]}},
        {"live": {"x": {}}},
        {"live": {"1": []}},
        {"live": []},
        {"retired": 5},
        {"retired": ["x"]},
        {"retired": [None]},
    ],
    ids=repr,
)
def test_a_damaged_state_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot restore"):
        EpochTotals.from_state({**EMPTY, **changes})


@pytest.mark.parametrize("missing", ["gone", "live", "retired"])
def test_an_incomplete_state_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=f"cannot restore.*{missing}"):
        EpochTotals.from_state({name: value for name, value in EMPTY.items() if name != missing})
