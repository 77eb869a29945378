from dataclasses import FrozenInstanceError

import pytest

from agent.core.revision import Revision


@pytest.mark.parametrize(
    ("digest", "name"),
    [("0123456789abcdef" * 4, "0123456789ab"), ("0123456789abc", "0123456789ab"), ("short", "short"), ("", "")],
)
def test_a_revision_is_shown_by_its_first_twelve_digits(digest: str, name: str) -> None:
    assert Revision(digest, "x").name == name


def test_revisions_that_share_a_name_are_still_different() -> None:
    assert Revision("0123456789ab" + "0", "x") != Revision("0123456789ab" + "1", "x")


def test_a_revision_is_its_two_digests() -> None:
    assert Revision("a", "x") == Revision("a", "x")
    assert Revision("a", "x") != Revision("a", "y")
    assert len({Revision("a", "x"), Revision("a", "x"), Revision("b", "x")}) == 2


def test_a_revision_cannot_be_changed() -> None:
    revision = Revision("a", "x")
    with pytest.raises(FrozenInstanceError):
        revision.digest = "b"  # type: ignore[misc]
