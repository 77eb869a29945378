"""A resource with a wildcard is a list of paths, and its directory is watched."""

import pytest

from agent.inputs.wildcards import is_wildcard, watched_for


@pytest.mark.parametrize(
    ("name", "is_wild", "watched"),
    [
        ("/c/list", False, "/c/list"),
        ("/c/*", True, "/c"),
        ("/c/*/x?.conf", True, "/c"),
        ("/c[1]/a", True, "/"),
        ("/*", True, "/"),
    ],
)
def test_wildcards(name: str, is_wild: bool, watched: str) -> None:
    assert is_wildcard(name) is is_wild
    assert watched_for(name) == watched
