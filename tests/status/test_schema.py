import json
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from agent.certificates.findings import Fault
from agent.status import model as shapes
from agent.status.model import Blocked, Status, document
from tests.status.sample import overview

SCHEMA: dict[str, Any] = json.loads(Path(shapes.__file__).with_name("schema.json").read_bytes())
SHAPES = {name: shape for name, shape in vars(shapes).items() if is_dataclass(shape) and isinstance(shape, type)}
BARE = replace(
    overview(), epoch=None, epochs=(), certificates=(), refused=(), blocked=(), listeners=(), rotations=(),
    out_of_sync_since=None, ready=False, reason="nothing serves",
)  # fmt: skip


def described(name: str) -> dict[str, Any]:
    """Return the schema of one of the types."""
    found: dict[str, Any] = SCHEMA if name == Status.__name__ else SCHEMA["$defs"][name]
    return found


@cache
def validator() -> Any:  # noqa: ANN401  # of a library without types
    jsonschema = pytest.importorskip("jsonschema", reason="wants jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize("whole", [overview(), BARE], ids=["full", "bare"])
def test_an_overview_is_what_the_schema_says(whole: Status) -> None:
    assert list(validator().iter_errors(json.loads(document(whole)))) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("at", "yesterday"), ("epoch", "7"), ("ready", None), ("blocked", ["weather"]), ("epochs", [{"number": 7}])],
)
def test_something_else_is_not(name: str, value: object) -> None:
    assert not validator().is_valid(json.loads(document(overview())) | {name: value})


def test_a_field_that_comes_later_is_no_offence() -> None:
    assert validator().is_valid(json.loads(document(overview())) | {"later": 1})


def test_the_schema_knows_every_shape_and_no_other() -> None:
    assert {Status.__name__, *SCHEMA["$defs"]} == {*SHAPES, "Blocked", "Moment"}


@pytest.mark.parametrize("name", SHAPES)
def test_the_schema_has_every_field_in_its_order_and_describes_it(name: str) -> None:
    names = [field.name for field in fields(SHAPES[name])]
    assert list(described(name)["properties"]) == described(name)["required"] == names
    assert all(property_["description"].endswith(".") for property_ in described(name)["properties"].values())


@pytest.mark.parametrize("name", SHAPES)
def test_every_field_has_its_type(name: str) -> None:
    hints = get_type_hints(SHAPES[name])
    for field, property_ in described(name)["properties"].items():
        assert kinds(property_) == expected(hints[field]), field


def kinds(schema: dict[str, Any]) -> set[str]:
    """Return the permitted kinds of a value: JSON's own types, and names of definitions."""
    if "anyOf" in schema:
        return set().union(*map(kinds, schema["anyOf"]))
    if "$ref" in schema:
        return {schema["$ref"].removeprefix("#/$defs/")}
    if "enum" in schema:
        return {"string"}
    if schema["type"] == "array":
        return {f"array of {kind}" for kind in kinds(schema["items"])}
    return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])


def expected(hint: Any) -> set[str]:  # noqa: ANN401  # any annotation
    """Return the same of an annotation."""
    if get_origin(hint) is tuple:
        return {f"array of {kind}" for kind in expected(get_args(hint)[0])}
    if get_args(hint):
        return set().union(*map(expected, get_args(hint)))
    own = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "NoneType": "null"}
    return {own.get(hint.__name__, {"datetime": "Moment"}.get(hint.__name__, hint.__name__))}


def test_closed_sets_are_the_ones_of_the_code() -> None:
    assert SCHEMA["$defs"]["Blocked"]["enum"] == list(Blocked)
    assert described("RejectedFile")["properties"]["reason"]["enum"] == [*Fault, "configuration", "program"]
