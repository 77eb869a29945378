"""Files that are injected and restored: generated ones, and each notation by itself."""

import json
import os
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings

from agent.injection import documents, planning
from agent.injection.annotations import STATUS
from agent.injection.draft import applied
from agent.injection.objects import InjectionRefused
from agent.injection.options import InjectionOptions
from tests.injection import generated

MANY = settings(
    max_examples=200 if os.environ.get("AGENT_LONG") else 30,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.reuse, Phase.generate],  # a smaller file takes minutes to find
)
VERSIONS = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")


def parsed(text: str) -> list[Any]:
    """Return the objects of a file."""
    return [each for each in yaml.safe_load_all(text.removeprefix("\ufeff").replace("\t", " ")) if each is not None]


def without_texts(tree: object) -> object:
    """Return an object without the records of texts in its status."""
    if isinstance(tree, dict):
        return {
            key: json.dumps({name: part for name, part in json.loads(each).items() if name != "text"})
            if key == STATUS
            else without_texts(each)
            for key, each in tree.items()
        }
    return [without_texts(each) for each in tree] if isinstance(tree, list) else tree


def injected(text: str, options: InjectionOptions) -> str:
    """Return the injected text; an object that is refused is no case of a test."""
    try:
        return documents.inject(text, "app.yaml", options).text
    except InjectionRefused as error:
        assume("port" not in str(error))
        raise


@MANY
@given(text=generated.files(), options=generated.options)
def test_injecting_again_changes_nothing(text: str, options: InjectionOptions) -> None:
    once = injected(text, options)
    assert once != text
    assert injected(once, options) == once


@MANY
@given(text=generated.files(), options=generated.options)
def test_a_removal_restores_each_byte(text: str, options: InjectionOptions) -> None:
    assert documents.uninject(injected(text, options), "app.yaml").text == text


@MANY
@given(text=generated.files(), first=generated.options, second=generated.options)
def test_other_options_replace_the_sidecar(text: str, first: InjectionOptions, second: InjectionOptions) -> None:
    assert injected(injected(text, first), second) == injected(text, second)


@MANY
@given(text=generated.files(), options=generated.options)
def test_the_text_has_the_value_of_the_plan(text: str, options: InjectionOptions) -> None:
    planned = [applied(each, planning.inject(each, options).edits) for each in parsed(text)]
    assert without_texts(parsed(injected(text, options))) == without_texts(planned)
    assert [applied(each, planning.inject(each, options).edits) for each in planned] == planned
    assert [applied(each, planning.uninject(each).edits) for each in planned] == parsed(text)


@MANY
@given(text=generated.files(), options=generated.options)
def test_what_is_injected_fits_the_schemas(text: str, options: InjectionOptions) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    version = VERSIONS[len(text) % len(VERSIONS)]
    for each in parsed(injected(text, options)):
        kubernetes.validate(each, version, strict=True)
