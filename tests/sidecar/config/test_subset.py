import re

import pytest

from agent.sidecar.config.subset import KINDS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_field_is_either_supported_or_refused(kind: str) -> None:
    fields = KINDS[kind]
    assert not fields.heeded & fields.refused
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", each) for each in fields.heeded | fields.refused)


def test_kinds_are_named_as_in_the_api() -> None:
    assert all(re.fullmatch(r"envoy(\.[a-z0-9_]+)+\.v3(\.[A-Z]\w+)+", kind) for kind in KINDS)


@pytest.mark.parametrize(
    ("kind", "heeded", "refused"),
    [
        ("envoy.config.core.v3.Pipe", {"path", "mode"}, set()),
        ("envoy.extensions.filters.network.echo.v3.Echo", set(), set()),
        ("envoy.config.core.v3.DataSource", {"filename", "inline_string", "inline_bytes"}, {"environment_variable"}),
        ("envoy.config.route.v3.RouteMatch", {"prefix"}, {"path", "safe_regex", "headers"}),
    ],
)
def test_fields_are_those_of_the_documentation(kind: str, heeded: set[str], refused: set[str]) -> None:
    assert KINDS[kind].heeded == heeded
    assert KINDS[kind].refused >= refused
