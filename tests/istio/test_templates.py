"""Bootstrap templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.core.errors import UsageError
from agent.istio import templates
from tests.istio.plans import plan


def test_a_whole_scalar_becomes_the_value_itself() -> None:
    values = {"metadata": {"a": [1]}, "port": 15000, "name": "x"}
    text = 'm: ${metadata}\np: "${port}"\nn: ${name}\n'
    assert templates.filled(text, "t", values) == {"m": {"a": [1]}, "p": 15000, "n": "x"}


def test_within_a_scalar_a_value_is_text() -> None:
    assert templates.filled("a: x-${n}-${n}", "t", {"n": 5}) == {"a": "x-5-5"}


def test_other_scalars_keep_their_types_and_dollars() -> None:
    text = "a: 5\nb: true\nc: ~\nd: 1.5\ne: 'a$'\nf: $${x}\ng: [$1, $x]\n"
    assert templates.filled(text, "t", {}) == {
        "a": 5, "b": True, "c": None, "d": 1.5, "e": "a$", "f": "${x}", "g": ["$1", "$x"],
    }  # fmt: skip


def test_json_is_a_template_too() -> None:
    assert templates.filled('{"a": "${x}", "b": [1]}', "t", {"x": "y"}) == {"a": "y", "b": [1]}


@given(some.text())
def test_no_value_changes_the_structure(value: str) -> None:
    assert templates.filled("a: {b: '${x}', c: 'p ${x}'}", "t", {"x": value}) == {"a": {"b": value, "c": f"p {value}"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: ${nobody}", r"cannot use t, line 2: there is no \$\{nobody\}; the keys are x"),
        ("a: 1\nb: 'x ${nobody}'", r"cannot use t, line 2: there is no \$\{nobody\}"),
        ("{\n{{- if .x }}\n}", "cannot read t, line .*: it is a Go template, which cannot be run here"),
        ('a: "{{ .x }}"', "cannot use t, line 1: it is a Go template"),
        ("a: [", "cannot read t, line 1: it is neither YAML nor JSON; correct it"),
        ("- a", "cannot read t: it is not a mapping"),
        ("", "cannot read t: it is not a mapping"),
    ],
)
def test_a_bad_template_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        templates.filled(text, "t", {"x": 1})


def test_the_keys_are_the_plans() -> None:
    values = templates.values(plan())
    assert values["node_id"] == "sidecar~10.0.0.7~web-1.shop~shop.svc.cluster.local"
    assert (values["region"], values["zone"], values["sub_zone"]) == ("r", "z", "")
    assert (values["discovery_host"], values["discovery_port"]) == ("istiod", 15012)
    assert (values["admin_port"], values["status_port"], values["localhost"]) == (15000, 15020, "127.0.0.1")
