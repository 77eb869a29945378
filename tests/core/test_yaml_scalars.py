"""How Envoy interprets a plain scalar; `tests/sidecar` compares it with Envoy itself."""

import pytest

from agent.core.yaml_scalars import plain_scalar


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("", None), ("~", None), ("NULL", None), ("nUll", "nUll"),
        ("y", True), ("YES", True), ("On", True), ("n", False), ("off", False), ("oN", "oN"),
        ("0", 0), ("-7", -7), ("+7", 7), ("010", 8), ("08", "08"), ("0x1F", 31), ("-0x10", -16),
        ("0.5", "0.5"), ("1e3", "1e3"), ("word", "word"),
        ("9007199254740991", 9007199254740991), ("9007199254740993", "9007199254740993"),
        ("0x20000000000001", "9007199254740993"), ("9223372036854775808", "9223372036854775808"),
    ],
)  # fmt: skip
def test_a_plain_scalar_has_the_value_that_envoy_reads(word: str, value: object) -> None:
    assert plain_scalar(word) == value
