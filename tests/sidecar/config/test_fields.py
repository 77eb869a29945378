import math

import pytest

from agent.core.errors import BadInput
from agent.sidecar.config.fields import Message, Refusals
from tests.sidecar.config.messages import reasons

KIND = "envoy.config.listener.v3.Listener"
VALUES = {"OFF": 0, "Low": 1, "HIGH": 2}


def message(**members: object) -> Message:
    """A listener; its fields are read as whatever a test wants."""
    return Message(members, "m", KIND, Refusals())


def why(it: Message) -> str:
    return reasons(it.refusals)


# Reasons


def test_without_a_reason_nothing_is_raised() -> None:
    Refusals().check("it")


@pytest.mark.parametrize(
    ("count", "shown", "more"), [(1, 1, ""), (5, 5, ""), (6, 5, "and 1 more"), (9, 5, "and 4 more")]
)
def test_five_reasons_are_shown_and_the_rest_counted(count: int, shown: int, more: str) -> None:
    refusals = Refusals()
    for number in range(count):
        refusals.add(f"p{number}", "bad")
    with pytest.raises(BadInput) as caught:
        refusals.check("file.yaml")
    told = str(caught.value)
    assert told.startswith("cannot use file.yaml: p0: bad")
    assert told.count(": bad") == shown
    assert told.endswith(more or ": bad")


def test_a_reason_without_a_path_stands_alone() -> None:
    refusals = Refusals()
    refusals.add("", "bad")
    assert reasons(refusals) == "bad"


# Members


@pytest.mark.parametrize("tree", [[], "text", 5, None, True, 0.5])
def test_a_message_is_a_mapping(tree: object) -> None:
    it = Message(tree, "m", KIND, Refusals())
    it.missing("name")
    assert why(it) == "m: it should be a mapping"
    assert not it.has("name")


def test_a_member_of_null_is_absent() -> None:
    it = message(name=None)
    assert (it.has("name"), it.text("name", "d")) == (False, "d")
    assert why(it) == ""


def test_a_field_that_is_not_supported_is_told_from_one_that_is_not_there() -> None:
    it = message(freebind=None, freebnd=1)
    told = why(it)
    assert "m.freebind: not supported by sidecar" in told
    assert f"m.freebnd: no such field in {KIND}" in told


def test_a_type_is_no_member() -> None:
    it = Message({"@type": "x"}, "m", KIND, Refusals())
    assert why(it) == ""
    assert not it.has("@type")


def test_a_path_names_every_step() -> None:
    it = message(address={"pipe": {"path": 5}})
    inner = it.message("address", "envoy.config.core.v3.Address")
    assert inner is not None
    pipe = inner.message("pipe", "envoy.config.core.v3.Pipe")
    assert pipe is not None
    pipe.text("path")
    assert why(it).startswith("m.address.pipe.path: ")
    assert Message({}, "", KIND, it.refusals).at("name") == "name"


@pytest.mark.parametrize("flaw", ["freebind", "no_such"])
def test_a_missing_field_is_not_told_where_another_reason_may_explain_it(flaw: str) -> None:
    it = message(**{flaw: 1})
    it.missing("name")
    assert it.one_of("address", "name") is None
    assert why(it).count(";") == 0
    clean = message()
    clean.missing("name")
    assert "m.name: " in why(clean)
    assert "missing" in why(clean)


# Texts


def test_a_text_is_a_text() -> None:
    it = message(name="", stat_prefix="日本")
    assert (it.text("name", "d"), it.text("stat_prefix"), it.text("address", "d")) == ("", "日本", "d")
    assert why(it) == ""


@pytest.mark.parametrize(
    ("value", "told"), [(5, "5"), (True, "true"), (False, "false"), ([], "a list"), ({}, "a mapping"), (0.5, "0.5")]
)
def test_what_is_no_text_is_told(value: object, told: str) -> None:
    it = message(name=value)
    assert it.text("name", "d") == "d"
    assert why(it).startswith("m.name: ")
    assert f"not {told};" in why(it)


def test_a_required_text_is_there_and_not_empty() -> None:
    assert "m.name: it is missing" in why_of_required(message())
    assert "m.name: it is empty" in why_of_required(message(name=""))
    assert why_of_required(message(name="x")) == ""


def why_of_required(it: Message) -> str:
    it.text("name", required=True)
    return why(it)


@pytest.mark.parametrize("character", ["\0", "\r", "\n"])
def test_a_header_has_no_line_ends(character: str) -> None:
    it = message(name=f"a{character}b")
    it.header("name")
    assert "m.name: " in why(it)
    good = message(name="a\tb é")
    assert good.header("name") == "a\tb é"
    assert why(good) == ""


def test_long_values_are_cut_in_messages() -> None:
    it = message(name=10**60)
    it.text("name")
    assert "1" + "0" * 39 + "…" in why(it)
    short = message(name=10**39)
    short.text("name")
    assert "1" + "0" * 39 + ";" in why(short)


# Truth values


@pytest.mark.parametrize(
    ("given", "value"),
    [(True, True), (False, False), ("true", True), ("T", True), ("Yes", True), ("y", True), ("1", True),
     ("False", False), ("f", False), ("NO", False), ("n", False), ("0", False)],
)  # fmt: skip
def test_a_truth_value_has_many_spellings(given: object, value: bool) -> None:
    it = message(bind_to_port=given)
    assert it.truth("bind_to_port", default=not value) is value
    assert why(it) == ""


@pytest.mark.parametrize("given", [1, 0, "on", "off", "", "2", [], {}, "truth", 1.0])
def test_everything_else_is_no_truth_value(given: object) -> None:
    it = message(bind_to_port=given)
    assert it.truth("bind_to_port", default=True) is True
    assert "m.bind_to_port: " in why(it)


@pytest.mark.parametrize("default", [True, False])
def test_without_a_member_the_default_is_true_or_false(default: bool) -> None:
    assert message().truth("bind_to_port", default=default) is default


@pytest.mark.parametrize("value", [True, False])
def test_only_one_truth_value_may_be_supported(value: bool) -> None:
    for given in ({}, {"bind_to_port": value}):
        it = message(**given)
        it.only("bind_to_port", value=value)
        assert why(it) == ""
    it = message(bind_to_port=not value)
    it.only("bind_to_port", value=value)
    assert why(it) == f"m.bind_to_port: {str(not value).lower()} is not supported by sidecar"


# Numbers


@pytest.mark.parametrize(
    ("given", "number"),
    [(0, 0), (4294967295, 4294967295), (1.0, 1), (1e3, 1000), ("7", 7), ("1.0", 1), ("1e3", 1000), ("1E+3", 1000),
     ("0x1F", 31), ("0X1f", 31), ("500e-1", 50), ("5.", 5), ("0x00000000000000ff", 255)],
)  # fmt: skip
def test_a_number_has_many_spellings(given: object, number: int) -> None:
    it = message(tcp_backlog_size=given)
    assert it.number("tcp_backlog_size", 99) == number
    assert why(it) == ""


@pytest.mark.parametrize(
    "given",
    [True, False, "", " 1", "1 ", "+1", "1_000", "0b1", "1.5", 1.5, "1e-1", "one", [], {}, math.inf, math.nan, "0x",
     "½", "٣", "1e400", "9" * 25, "0x" + "f" * 17, "--1", "0x1g"],
)  # fmt: skip
def test_everything_else_is_no_whole_number(given: object) -> None:
    it = message(tcp_backlog_size=given)
    assert it.number("tcp_backlog_size", 99) == 99
    assert "m.tcp_backlog_size: " in why(it)
    assert "whole number" in why(it)


@pytest.mark.parametrize(
    ("given", "is_good"), [(4, False), (5, True), (9, True), (10, False), (-5, False), (1e30, False)]
)
def test_a_number_lies_between_its_limits(given: float, is_good: bool) -> None:
    it = message(tcp_backlog_size=given)
    assert it.number("tcp_backlog_size", 99, low=5, high=9) == (given if is_good else 99)
    assert ("not between 5 and 9" in why(it)) is not is_good


def test_a_number_has_32_bits_and_no_sign_by_default() -> None:
    for given in (-1, 4294967296):
        it = message(tcp_backlog_size=given)
        it.number("tcp_backlog_size")
        assert "not between 0 and 4294967295" in why(it)


def test_a_default_may_lie_outside_the_limits() -> None:
    it = message()
    assert it.number("tcp_backlog_size", 0, low=1) == 0
    assert message().number("tcp_backlog_size") == 0
    assert why(it) == ""


# Spans


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("0s", 0),
        ("0.25s", 0.25),
        ("3600s", 3600),
        ("0.000000001s", 1e-9),
        ("315576000000s", 315576000000),
        ("1.50s", 1.5),
    ],
)
def test_a_span_is_seconds_with_an_s(given: str, seconds: float) -> None:
    it = message(listener_filters_timeout=given)
    assert it.span("listener_filters_timeout", 7) == seconds
    assert why(it) == ""


@pytest.mark.parametrize(
    "given",
    ["", "s", "1", 1, 0.5, "1 s", "1m", "1.s", ".5s", "+1s", "1e3s", "0.0000000001s", "315576000001s", "9999999999999s",
     "1s ", "٣s", True, [], {}, "-315576000001s", "1s\n"],
)  # fmt: skip
def test_everything_else_is_no_span(given: object) -> None:
    it = message(listener_filters_timeout=given)
    assert it.span("listener_filters_timeout", 7) == 7
    assert "m.listener_filters_timeout: " in why(it)
    assert "a span such as" in why(it)


@pytest.mark.parametrize(("given", "positive", "is_good"), [("-1s", False, False), ("-0.000000001s", False, False),
    ("0s", False, True), ("0s", True, False), ("0.001s", True, True), ("-1s", True, False)])  # fmt: skip
def test_a_span_is_not_negative_and_may_have_to_be_positive(given: str, positive: bool, is_good: bool) -> None:
    it = message(listener_filters_timeout=given)
    found = it.span("listener_filters_timeout", 7, positive=positive)
    assert found == (float(given[:-1]) if is_good else 7)
    assert ("too short" in why(it)) is not is_good


def test_without_a_span_the_default_counts() -> None:
    assert message().span("listener_filters_timeout", 2.5, positive=True) == 2.5


# Choices


@pytest.mark.parametrize("given", ["Low", "low", "LOW", 1, "1", 1.0])
def test_a_choice_is_by_name_or_number(given: object) -> None:
    it = message(drain_type=given)
    assert it.choice("drain_type", VALUES, {"Low": "l", "HIGH": "h"}, "d") == "l"
    assert why(it) == ""


@pytest.mark.parametrize("given", ["OFF", 0, "off", 7, "7"])
def test_a_choice_that_is_not_supported_is_told_with_those_that_are(given: object) -> None:
    it = message(drain_type=given)
    assert it.choice("drain_type", VALUES, {"Low": "l", "HIGH": "h"}, "d") == "d"
    name = "7" if str(given) == "7" else "OFF"
    assert why(it) == f"m.drain_type: {name} is not supported by sidecar, only Low, HIGH"


@pytest.mark.parametrize("given", ["mid", "", True, [], {}, 1.5, "-1", "²"])
def test_what_is_no_choice_is_told_with_all_of_them(given: object) -> None:
    it = message(drain_type=given)
    assert it.choice("drain_type", VALUES, {"Low": "l"}, "d") == "d"
    assert why(it).startswith("m.drain_type: it should be one of OFF, Low, HIGH, not ")


def test_without_a_choice_the_default_counts() -> None:
    assert message().choice("drain_type", VALUES, {"Low": "l"}, "d") == "d"


# Lists and messages


def test_a_list_of_texts_keeps_those_that_are() -> None:
    it = message(name=["a", 5, "", True])
    assert it.texts("name") == ("a", "")
    assert "m.name[1]: " in why(it)
    assert "m.name[3]: " in why(it)
    assert message().texts("name") == ()


@pytest.mark.parametrize("given", ["a", 5, {"a": 1}, True])
def test_what_is_no_list_is_told(given: object) -> None:
    it = message(name=given)
    assert it.texts("name") == ()
    assert it.messages("name", KIND) == []
    assert why(it).startswith("m.name: it should be a list; m.name: ")


def test_messages_of_a_list_have_their_places() -> None:
    it = message(additional_addresses=[{"name": "a"}, {"no_such": 1}, 5])
    found = it.messages("additional_addresses", KIND)
    assert [each.path for each in found] == [f"m.additional_addresses[{number}]" for number in range(3)]
    assert found[0].text("name") == "a"
    assert "m.additional_addresses[1].no_such: " in why(it)
    assert "m.additional_addresses[2]: it should be a mapping" in why(it)


def test_a_message_is_none_if_it_is_absent() -> None:
    it = message()
    assert it.message("address", KIND) is None
    assert why(it) == ""
    assert it.message("address", KIND, required=True) is None
    assert "m.address: it is missing" in why(it)


def test_a_free_tree_is_returned_as_it_is() -> None:
    assert message(address={"aB": [1]}).tree("address") == {"aB": [1]}
    assert message().tree("address") == {}
    it = message(address=[1])
    assert it.tree("address") == {}
    assert why(it) == "m.address: it should be a mapping"


def test_exclusive_fields_exclude_one_another() -> None:
    assert message(name="x").one_of("address", "name") == "name"
    both = message(name="x", address={})
    assert both.one_of("address", "name") == "address"
    assert why(both) == "m.name: it cannot stand beside address"
    none = message()
    assert none.one_of("address", "name") is None
    assert why(none) == "m: one of address, name is missing"


# Typed configurations

FILTER = "envoy.config.listener.v3.Filter"
ECHO = "envoy.extensions.filters.network.echo.v3.Echo"


def typed(config: object) -> tuple[str | None, str]:
    it = Message({"typed_config": config}, "m", FILTER, Refusals())
    found = it.typed((ECHO,))
    assert found is None or found[1].path == "m.typed_config"
    return None if found is None else found[0], why(it)


@pytest.mark.parametrize("prefix", ["type.googleapis.com/", "/", "a/b/"])
def test_a_type_is_named_after_its_last_slash(prefix: str) -> None:
    assert typed({"@type": prefix + ECHO}) == (ECHO, "")


@pytest.mark.parametrize("given", [ECHO, "", 5, None, ["/"]])
def test_a_type_without_a_slash_is_none(given: object) -> None:
    found, told = typed({"@type": given})
    assert found is None
    assert told.startswith("m.typed_config: it has no @type")


def test_a_type_of_another_kind_is_not_supported_here() -> None:
    assert typed({"@type": "x/a.B"}) == (None, "m.typed_config.@type: a.B is not supported by sidecar here")


@pytest.mark.parametrize(
    ("given", "told"), [(None, "it is missing"), ([], "should be a mapping"), ("x", "should be a mapping")]
)
def test_a_typed_configuration_is_a_mapping(given: object, told: str) -> None:
    found, reason = typed(given)
    assert found is None
    assert reason.startswith("m.typed_config: ")
    assert told in reason


def test_members_of_a_typed_configuration_are_checked() -> None:
    found, told = typed({"@type": f"x/{ECHO}", "a": 1})
    assert found == ECHO
    assert told == f"m.typed_config.a: no such field in {ECHO}"
