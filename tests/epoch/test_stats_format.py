"""Statistics as Envoy's /stats shows them: which are selected, in which order and form."""

import json

import pytest

from agent.epoch.stats_format import prometheus, stats
from agent.http.message import Response
from agent.stats.snapshot import Snapshot

SOME = Snapshot({"b.total": 2, "a.total": 0}, {"c.active": 0, "a.active": 1})


def body(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def kind(response: Response) -> str:
    return dict(response.headers)["content-type"]


def names(snapshot: Snapshot, **asked: str) -> list[str]:
    return [line.rpartition(": ")[0] for line in body(stats(snapshot, asked)).splitlines()]


def samples(snapshot: Snapshot, **asked: str) -> list[str]:
    return body(prometheus(snapshot, asked)).splitlines()


@pytest.mark.parametrize("form", [{}, {"format": "text"}, {"format": "html"}, {"format": "active-html"}])
def test_values_come_sorted_whatever_their_kind(form: dict[str, str]) -> None:
    answer = stats(SOME, form)
    assert (answer.status, kind(answer)) == (200, "text/plain; charset=UTF-8")
    assert body(answer) == "a.active: 1\na.total: 0\nb.total: 2\nc.active: 0\n"


TEXTS = Snapshot({"b": 1}, {}, texts={"s.y": "", "s.x": "<1>"})


def test_texts_come_first_between_quotes() -> None:
    assert body(stats(TEXTS, {})) == 's.x: "<1>"\ns.y: ""\nb: 1\n'
    assert body(stats(TEXTS, {"usedonly": "", "filter": "^s"})) == 's.x: "<1>"\n'
    assert body(stats(TEXTS, {"type": "TextReadouts"})) == 's.x: "<1>"\ns.y: ""\n'
    assert body(stats(TEXTS, {"type": "Counters"})) == "b: 1\n"
    assert json.loads(body(stats(TEXTS, {"format": "json"})))["stats"][0] == {"name": "s.x", "value": "<1>"}
    assert body(prometheus(TEXTS, {})) == "# TYPE envoy_b counter\nenvoy_b{} 1\n"


def test_nothing_is_an_empty_text() -> None:
    assert body(stats(Snapshot(), {})) == ""
    assert body(prometheus(Snapshot(), {})) == ""
    assert body(stats(Snapshot(), {"format": "json"})) == '{"stats":[]}'


def test_json_lists_names_and_values() -> None:
    answer = stats(SOME, {"format": "json", "type": "Counters"})
    assert (answer.status, kind(answer)) == (200, "application/json")
    assert body(answer) == '{"stats":[{"name":"a.total","value":0},{"name":"b.total","value":2}]}'


def test_names_may_have_any_characters() -> None:
    odd = Snapshot({'q"\\\n: 7': 1}, {"ж": 2})
    assert {row["name"] for row in json.loads(body(stats(odd, {"format": "json"})))["stats"]} == {'q"\\\n: 7', "ж"}


@pytest.mark.parametrize("form", ["", "xml", "JSON", "text "])
def test_another_form_is_refused_with_the_known_ones(form: str) -> None:
    answer = stats(SOME, {"format": form})
    assert answer.status == 400
    assert "format=(html|active-html|json|prometheus|text)" in body(answer)


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("All", ["a.active", "a.total", "b.total", "c.active"]),
        ("Counters", ["a.total", "b.total"]),
        ("Gauges", ["a.active", "c.active"]),
        ("Histograms", []),
        ("TextReadouts", []),
    ],
)
def test_a_type_selects_its_own(type_: str, expected: list[str]) -> None:
    assert names(SOME, type=type_) == expected


@pytest.mark.parametrize("type_", ["", "counters", "Counter"])
def test_another_type_is_refused(type_: str) -> None:
    answer = stats(SOME, {"type": type_})
    assert answer.status == 400
    assert "type" in body(answer)


def test_a_counter_that_has_not_counted_is_unused_but_a_gauge_may_be_back_at_zero() -> None:
    for value in ("", "0", "false"):
        assert names(SOME, usedonly=value) == ["a.active", "b.total", "c.active"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("tot", ["a.total", "b.total"]),
        ("^a", ["a.active", "a.total"]),
        ("l$", ["a.total", "b.total"]),
        ("^total", []),
        ("a.active|b", ["a.active", "b.total"]),
        ("", ["a.active", "a.total", "b.total", "c.active"]),
    ],
)
def test_a_filter_finds_anywhere(pattern: str, expected: list[str]) -> None:
    assert names(SOME, filter=pattern) == expected


def test_a_filter_can_be_turned_round() -> None:
    assert names(SOME, filter="tot", invert_filter="") == ["a.active", "c.active"]
    assert names(SOME, filter="^a", invert_filter="0", type="Counters") == ["b.total"]
    assert len(names(SOME, invert_filter="")) == 4


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<a", "*", "(" * 5000, "a{99999999999}"])
@pytest.mark.parametrize("answer", [stats, prometheus])
def test_a_filter_that_is_none_is_refused(answer: object, pattern: str) -> None:
    assert callable(answer)
    refused = answer(SOME, {"filter": pattern})
    assert refused.status == 400
    assert body(refused).startswith("Invalid re2 regex: ")
    assert pattern in body(refused)


def test_prometheus_has_families_with_their_kind_and_the_tags_as_labels() -> None:
    some = Snapshot(
        {"cluster.b.upstream_rq_5xx": 3, "cluster.a.upstream_rq_5xx": 2, "plain.total": 1},
        {"listener.127.0.0.1_80.downstream_cx_active": 4},
    )
    assert samples(some) == [
        "# TYPE envoy_cluster_upstream_rq_xx counter",
        'envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="a"} 2',
        'envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="b"} 3',
        "# TYPE envoy_plain_total counter",
        "envoy_plain_total{} 1",
        "# TYPE envoy_listener_downstream_cx_active gauge",
        'envoy_listener_downstream_cx_active{envoy_listener_address="127.0.0.1_80"} 4',
    ]


def test_prometheus_may_be_asked_for_as_a_format() -> None:
    answer = stats(SOME, {"format": "prometheus", "filter": "b"})
    assert body(answer) == "# TYPE envoy_b_total counter\nenvoy_b_total{} 2\n"
    assert kind(answer) == "text/plain; charset=UTF-8"


def test_characters_that_no_name_of_prometheus_has_are_replaced() -> None:
    assert samples(Snapshot({"a-b c.d/é:e": 1})) == ["# TYPE envoy_a_b_c_d___e counter", "envoy_a_b_c_d___e{} 1"]


def test_prometheus_knows_every_parameter_but_the_type() -> None:
    assert samples(SOME, type="Gauges") == samples(SOME)
    assert samples(SOME, type="nonsense") == samples(SOME)
    assert samples(SOME, usedonly="", filter="total") == ["# TYPE envoy_b_total counter", "envoy_b_total{} 2"]
    assert "envoy_a_total{} 0" not in samples(SOME, filter="^a", invert_filter="")
