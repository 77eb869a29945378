"""Branches are taken as HAProxy takes them."""

import subprocess

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.proxies.haproxy.conditions import Branches, holds
from tests.proxies.haproxy.programs import program

ENVIRONMENT = {"THERE": ""}
TERMS = st.sampled_from(
    [
        "0",
        "1",
        "12",
        "defined(THERE)",
        "defined(NONE)",
        "streq(a,a)",
        "streq(a,b)",
        "strneq(a,b)",
        "version_atleast(1.0)",
    ]
)
EXPRESSIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"!{text}"),
        inner.map(lambda text: f"({text})"),
        st.tuples(inner, st.sampled_from(["&&", "||", " && ", " || "]), inner).map("".join),
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("", False),
        ("1", True),
        ("!0", True),
        ("defined(THERE) && streq(a,a)", True),
        ("1 && 0 || 1", True),
        ("0 || (1 && !1)", False),
        ("feature(OPENSSL)", True),
        ("version_before(2.0)", False),
        ("1 &&", False),
        ("(1", False),
        ("1 ?", False),
    ],
)
def test_conditions(expression: str, result: bool) -> None:
    assert holds(expression, ENVIRONMENT) is result


def left_out(*lines: str) -> str:
    """Return for each line whether it is left out, as digits."""
    branches = Branches(ENVIRONMENT)
    return "".join(str(int(branches.leave_out(tuple(line.split())))) for line in lines)


def test_branches_nest_and_one_of_each_is_taken() -> None:
    assert left_out(".if 0", "a", ".elif 1", "b", ".elif 1", "c", ".else", "d", ".endif", "e") == "1110111110"
    assert left_out(".if 0", ".if 1", "a", ".else", "b", ".endif", ".endif", "c") == "11111110"
    assert left_out(".if 1", ".if 0", "a", ".else", "b", ".endif", ".endif") == "1111011"


@settings(max_examples=40, phases=[Phase.generate])
@given(EXPRESSIONS)
def test_haproxy_says_the_same(expression: str) -> None:
    done = subprocess.run([program(), "-cc", expression], env=ENVIRONMENT, capture_output=True, check=False, timeout=60)
    assert holds(expression, ENVIRONMENT) is (done.returncode == 0)
