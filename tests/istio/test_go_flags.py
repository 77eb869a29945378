"""The rules of pflag, the flag library of Go programs, with unknown flags accepted."""

import pytest

from agent.core.errors import UsageError
from agent.istio.go_flags import CommandLine, Kind, parse

FLAGS = {
    "domain": Kind.TEXT, "json": Kind.BOOLEAN, "port": Kind.PORT, "count": Kind.INTEGER, "drain": Kind.DURATION,
    "ports": Kind.LIST,
}  # fmt: skip
SHORTS = {"d": "domain", "j": "json", "n": "count"}


def read(*words: str) -> CommandLine:
    return parse(words, FLAGS, SHORTS)


def test_a_value_stands_behind_the_flag_or_after_an_equals_sign() -> None:
    assert read("--domain", "a", "proxy").values == {"domain": "a"}
    assert read("--domain=a=b", "proxy").values == {"domain": "a=b"}
    assert read("--domain=", "proxy").values == {"domain": ""}
    assert read("--domain", "--json").values == {"domain": "--json"}


def test_the_last_one_of_a_repeated_flag_counts_and_lists_are_joined() -> None:
    assert read("--domain", "a", "--domain=b").values == {"domain": "b"}
    assert read("--ports", "1,2", "--ports=3, ,").values == {"ports": ("1", "2", "3")}


def test_a_boolean_takes_a_value_only_after_an_equals_sign() -> None:
    line = read("--json", "false")
    assert (line.values, line.arguments) == ({"json": True}, ["false"])
    for text, value in {"true": True, "T": True, "1": True, "false": False, "F": False, "0": False}.items():
        assert read(f"--json={text}").values == {"json": value}


def test_arguments_and_flags_may_be_mixed_until_two_dashes() -> None:
    line = read("a", "--json", "-", "--", "--domain", "b")
    assert (line.values, line.arguments) == ({"json": True}, ["a", "-", "--domain", "b"])


@pytest.mark.parametrize(
    ("words", "unknown", "arguments"),
    [
        (["--new", "router"], [("--new", "router")], []),
        (["--new=x", "router"], [("--new", None)], ["router"]),
        (["--new", "--json", "router"], [("--new", None)], ["router"]),
        (["--new"], [("--new", None)], []),
        (["--new", "x", "router"], [("--new", "x")], ["router"]),
        (["-q", "router"], [("-q", "router")], []),
        (["-q=x", "router"], [("-q", None)], ["router"]),
    ],
)
def test_an_unknown_flag_takes_the_next_argument_unless_that_begins_with_a_dash(
    words: list[str], unknown: list[tuple[str, str | None]], arguments: list[str]
) -> None:
    line = read(*words)
    assert (line.unknown, line.arguments) == (unknown, arguments)


def test_short_flags_may_stand_together() -> None:
    assert read("-jn", "3").values == {"json": True, "count": 3}
    assert read("-n3").values == {"count": 3}
    assert read("-n=3").values == {"count": 3}
    assert read("-d", "x").values == {"domain": "x"}


def test_values_have_their_types() -> None:
    values = read("--port=15020", "--count=0x10", "--drain=1m0s").values
    assert values == {"port": 15020, "count": 16, "drain": 60.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--domain"], "cannot read the flag --domain: its value is missing"),
        (["--=x"], "cannot read the flag --=x: a flag has a name"),
        (["---x"], "cannot read the flag ---x: a flag has a name"),
        (["--json=yes"], "cannot use --json: 'yes' is not a boolean"),
        (["--port=65536"], "cannot use --port: '65536' is not a port"),
        (["--port=-1"], "cannot use --port: '-1' is not a port"),
        (["--count=ten"], "cannot use --count: 'ten' is not a whole number"),
        (["--drain=45"], "cannot use --drain: '45' is not a duration"),
        (["-n"], "cannot read the flag --count: its value is missing"),
    ],
)
def test_a_bad_flag_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(*words)
