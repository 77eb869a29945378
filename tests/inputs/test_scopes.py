"""A file is watched as its path is written, or as its directory resolves, whatever the links on the way."""

import os
from pathlib import Path

import pytest

from agent.inputs.scopes import Scopes


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories `inside` and `outside`, with a link to each other in both, and `outside` as working directory."""
    for name in ("inside", "outside"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "in").symlink_to("../inside")
    (tmp_path / "inside" / "out").symlink_to("../outside")
    monkeypatch.chdir(tmp_path / "outside")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "is_contained"),
    [
        ("inside/a", True),
        ("inside/deep/missing/a", True),
        ("inside", True),
        ("inside/out/a", True),  # as written
        ("outside/in/a", True),  # as it resolves
        ("outside/in/deep/a", True),
        ("outside/a", False),
        ("outside/deep/a", False),
        ("inside2/a", False),
        ("outside/one", True),
        ("outside/deep/one", False),
    ],
)
def test_what_lies_below_a_watched_path(path: str, is_contained: bool, site: Path) -> None:
    scopes = Scopes([site / "inside", site / "outside" / "one"])
    assert scopes.contain(str(site / path)) is is_contained


def test_relative_paths_begin_at_the_working_directory(site: Path) -> None:
    assert Scopes([Path("deep")]).contain("deep/a")
    assert Scopes([Path("deep")]).contain(str(site / "outside" / "deep" / "a"))
    assert Scopes([site / "outside" / "deep"]).contain("deep/a")
    assert not Scopes([Path("deep")]).contain("a")


def test_a_path_through_a_link_out_of_the_real_directory_of_a_linked_scope_is_outside(site: Path) -> None:
    (site / "link").symlink_to("inside")
    scopes = Scopes([site / "link"])
    assert scopes.contain(str(site / "inside" / "a"))
    assert scopes.contain(str(site / "link" / "out" / "a"))
    assert not scopes.contain(str(site / "inside" / "out" / "a"))


def test_a_link_that_is_exchanged_counts_for_the_next_instance(site: Path) -> None:
    path = str(site / "outside" / "in" / "a")
    scopes = Scopes([site / "inside"])
    assert scopes.contain(path)
    (site / "outside" / "in").unlink()
    (site / "outside" / "in").symlink_to("deep")
    assert not Scopes([site / "inside"]).contain(path)


def test_a_directory_is_resolved_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scopes, resolved, resolve = Scopes([site / "inside"]), list[str](), os.path.realpath

    def counted(path: str, *, strict: bool = False) -> str:
        resolved.append(str(path))
        return resolve(path, strict=strict)

    monkeypatch.setattr(os.path, "realpath", counted)
    for number in range(10):
        scopes.contain(str(site / "outside" / "in" / f"{number}"))
    assert len(resolved) <= 2, resolved
