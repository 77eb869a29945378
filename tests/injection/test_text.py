"""Edits in a text are checked by its value, and what they take away is in the status."""

import json
from typing import Any

import pytest
import yaml

from agent.injection import planning
from agent.injection.annotations import STATUS
from agent.injection.edits import Append, Set
from agent.injection.options import InjectionOptions
from agent.injection.positions import NotEditable
from agent.injection.text import injected, uninjected

TEXT = """\
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: a
    image: b
    livenessProbe:
      tcpSocket: # asked
        port: 80
      periodSeconds: 3
"""


def status(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(yaml.safe_load(text)["metadata"]["annotations"][STATUS])
    return found


def with_sidecar(text: str = TEXT) -> str:
    return injected(text, planning.inject(yaml.safe_load(text), InjectionOptions()).edits)


def without(text: str) -> str:
    return uninjected(text, planning.uninject(yaml.safe_load(text)).edits)


def test_a_text_that_is_taken_away_is_in_the_status() -> None:
    text = with_sidecar()
    assert status(text)["text"] == {
        "/spec/containers/0/livenessProbe/tcpSocket": ["\n      tcpSocket: # asked\n        port: 80", 0, 0, 1]
    }
    assert without(text) == TEXT


def test_after_another_program_has_written_the_file_the_value_is_restored() -> None:
    """The records do not fit then."""
    written = yaml.safe_dump(yaml.safe_load(with_sidecar()))
    assert yaml.safe_load(without(written)) == yaml.safe_load(TEXT)


@pytest.mark.parametrize(
    "records",
    [
        5, None, {"/spec/containers/0/livenessProbe/tcpSocket": 5}, {"/spec/containers/0/livenessProbe/tcpSocket": []},
        {"/spec/containers/0/livenessProbe/tcpSocket": ["\n      exec: {command: [x]}", 0, 0, 1]},
        {"/spec/containers/0/livenessProbe/tcpSocket": ["\n      tcpSocket: {port: 80}", 9, 99, "x"]},
    ],
)  # fmt: skip
def test_records_are_not_trusted(records: object) -> None:
    tree = yaml.safe_load(with_sidecar())
    tree["metadata"]["annotations"][STATUS] = json.dumps({**status(with_sidecar()), "text": records})
    text = json.dumps(tree)
    assert yaml.safe_load(without(text)) == yaml.safe_load(TEXT)


def test_an_object_in_a_list_is_edited_alone() -> None:
    text = "items:\n- a: 1\n- b: 2\n"
    assert injected(text, [Set(("c",), 3)], ("items", 0)) == "items:\n- a: 1\n  c: 3\n- b: 2\n"


@pytest.mark.parametrize("text", ["a: |\n  x", "? a\n: [1]\n"])
def test_an_edit_that_would_change_something_else_is_refused(text: str) -> None:
    with pytest.raises(NotEditable):
        injected(text, [Set(("b",), 1), Append(("a",), 2)])
