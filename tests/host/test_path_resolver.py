"""How paths resolve: every directory and link on the way, on real trees of links."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.host.path_resolver import MAX_LINKS, Directory, Link, PathResolver, join, look, visible_entries
from tests.host.signal_printer import publish, replace_link


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory whose own path has no link in it."""
    return tmp_path.resolve()


@pytest.fixture
def inside(top: Path) -> Iterator[Path]:
    """Work in a directory: paths may be relative."""
    before = Path.cwd()
    os.chdir(top)
    yield top
    os.chdir(before)


def resolved(*paths: Path | str) -> PathResolver:
    return PathResolver.of(map(str, paths))


def test_each_component_is_recorded_with_the_directory_that_has_it(top: Path) -> None:
    (top / "certs").mkdir()
    (top / "certs/tls.crt").touch()
    found = resolved(top / "certs/tls.crt")
    status = (top / "certs").stat()
    assert found.hops[str(top)] == {"certs": Directory(status.st_dev, status.st_ino)}
    assert found.hops[f"{top}/certs"] == {"tls.crt": None}
    assert found.hops["/"].keys() == {top.parts[1]}
    assert found.ends == {f"{top}/certs/tls.crt": {f"{top}/certs/tls.crt"}}
    assert found.listed == {}


def test_a_mounted_secret_is_followed_through_both_links(top: Path) -> None:
    publish(top, 0)
    found = resolved(top / "tls.crt")
    assert found.hops[str(top)].keys() == {"tls.crt", "..data", "..0"}
    assert found.hops[str(top)]["tls.crt"] == Link("..data/tls.crt")
    assert found.hops[str(top)]["..data"] == Link("..0")
    assert found.ends == {f"{top}/..0/tls.crt": {f"{top}/tls.crt"}}
    assert found.directories() >= {"/", str(top), f"{top}/..0"}
    assert found.holders() == {f"{top}/..0"}


def test_a_directory_counts_with_its_entries_and_where_its_links_lead(top: Path) -> None:
    publish(top, 0)
    found = resolved(top)
    assert found.listed == {str(top): {str(top)}}
    assert found.ends == {f"{top}/..0/{name}": {f"{top}/{name}"} for name in ("tls.crt", "tls.key")}
    assert found.holders() == {str(top), f"{top}/..0"}


def test_hidden_links_among_the_entries_are_not_followed(top: Path) -> None:
    (top / ".hidden").symlink_to("/etc/hostname")
    (top / "plain").touch()
    found = resolved(top)
    assert found.ends == {}
    assert str(top) not in found.hops


@pytest.mark.parametrize(
    "path", ["{top}/certs/", "{top}//certs", "{top}/./certs", "{top}/certs/../certs", "/..{top}/certs", "//{top}/certs"]
)
def test_a_path_may_be_written_in_many_ways_and_keeps_its_own(top: Path, path: str) -> None:
    (top / "certs").mkdir()
    written = path.format(top=top)
    assert resolved(written).listed == {f"{top}/certs": {written}}


def test_dots_go_up_from_where_a_link_has_led(top: Path) -> None:
    """The kernel resolves them so: textually it would be another file."""
    (top / "real/deep").mkdir(parents=True)
    (top / "real/chain.pem").touch()
    (top / "link").symlink_to("real/deep")
    assert resolved(top / "link/../chain.pem").ends.keys() == {f"{top}/real/chain.pem"}


def test_dots_beyond_the_root_stay_there() -> None:
    assert resolved("/../../etc").listed == {"/etc": {"/../../etc"}}


def test_the_root_itself_is_a_directory() -> None:
    found = resolved("/")
    assert found.listed == {"/": {"/"}}
    assert "/" in found.directories()


def test_a_relative_path_begins_at_the_working_directory(inside: Path) -> None:
    (inside / "certs").mkdir()
    assert resolved("certs/tls.crt").ends == {f"{inside}/certs/tls.crt": {"certs/tls.crt"}}
    assert resolved(".").listed == {str(inside): {"."}}
    assert resolved("").listed == {str(inside): {""}}


def test_an_absolute_link_begins_at_the_root_and_a_relative_one_where_it_is(top: Path) -> None:
    for name in ("a", "b"):
        (top / name).mkdir()
    (top / "a/absolute").symlink_to(top / "b")
    (top / "a/relative").symlink_to("../b")
    found = resolved(top / "a/absolute/x", top / "a/relative/x")
    assert found.ends == {f"{top}/b/x": {f"{top}/a/absolute/x", f"{top}/a/relative/x"}}


def test_two_paths_to_one_file_share_its_end(top: Path) -> None:
    (top / "file").touch()
    (top / "link").symlink_to("file")
    found = resolved(top / "file", top / "link")
    assert found.names_of(str(top), "file") == {f"{top}/file", f"{top}/link"}


def test_a_missing_file_is_an_end_and_a_missing_directory_is_none(top: Path) -> None:
    found = resolved(top / "missing.pem", top / "none/chain.pem")
    assert found.ends == {f"{top}/missing.pem": {f"{top}/missing.pem"}}
    assert found.hops[str(top)] == {"missing.pem": None, "none": None}
    assert f"{top}/none" not in found.directories()


def test_what_is_below_a_file_is_no_end(top: Path) -> None:
    (top / "file").touch()
    assert resolved(top / "file/below").ends == {}


def test_a_name_that_nothing_can_have_is_recorded_as_missing(top: Path) -> None:
    found = resolved(f"{top}/nul\0", f"{top}/{'x' * 300}")
    assert set(found.hops[str(top)].values()) == {None}
    assert len(found.ends) == 2


def test_as_many_links_are_followed_as_the_kernel_follows(top: Path) -> None:
    (top / "0").touch()
    for number in range(1, 42):
        (top / f"{number}").symlink_to(f"{number - 1}")
    assert MAX_LINKS == 40
    assert (top / "40").read_bytes() == b""
    with pytest.raises(OSError, match="symbolic links"):
        (top / "41").read_bytes()
    assert resolved(top / "40").ends == {f"{top}/0": {f"{top}/40"}}
    assert resolved(top / "41").ends == {f"{top}/1": {f"{top}/41"}}


@pytest.mark.parametrize(("target", "end"), [("loop", {"loop"}), ("../{name}/loop", {"loop"}), ("loop/below", set())])
def test_a_loop_of_links_ends(top: Path, target: str, end: set[str]) -> None:
    (top / "loop").symlink_to(target.format(name=top.name))
    found = resolved(top / "loop")
    assert found.hops[str(top)]["loop"] == Link(target.format(name=top.name))
    assert found.ends.keys() == {f"{top}/{name}" for name in end}


def test_a_target_that_grows_with_each_link_ends(top: Path) -> None:
    (top / "loop").symlink_to("loop/" * 100 + "x")
    assert not resolved(top / "loop").ends


def test_many_files_of_one_directory_ask_for_each_component_once(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "certs").mkdir()
    asked: list[str] = []
    lstat = os.lstat

    def note(path: str) -> os.stat_result:
        asked.append(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", note)
    resolved(*(top / "certs" / f"{number}.pem" for number in range(50)))
    assert len(asked) == len(set(asked))
    assert asked.count(f"{top}/certs") == 1


def test_equal_ways_are_equal_and_a_link_that_leads_elsewhere_is_not(top: Path) -> None:
    publish(top, 0)
    before = resolved(top)
    assert resolved(top) == before
    publish(top, 1)
    assert resolved(top) != before


def test_a_directory_that_is_replaced_makes_a_difference(top: Path) -> None:
    (top / "certs").mkdir()
    before = resolved(top / "certs/chain.pem")
    (top / "certs").rename(top / "away")
    (top / "certs").mkdir()
    assert resolved(top / "certs/chain.pem") != before


def test_a_file_that_is_replaced_makes_none(top: Path) -> None:
    """Its bytes are compared by the caller."""
    (top / "chain.pem").touch()
    before = resolved(top / "chain.pem")
    (top / "chain.pem").unlink()
    (top / "chain.pem").write_text("other")
    assert resolved(top / "chain.pem") == before


def test_a_directory_without_access_is_listed_as_empty(ordinary: Path) -> None:
    certs = ordinary / "certs"
    certs.mkdir()
    (certs / "link").symlink_to("/etc/hostname")
    certs.chmod(0o300)
    found = resolved(certs)
    certs.chmod(0o700)
    assert found.listed == {str(certs): {str(certs)}}
    assert found.ends == {}


def test_an_event_concerns_a_path_that_passes_through_its_name(top: Path) -> None:
    (top / "certs").mkdir()
    found = resolved(top / "certs/chain.pem")
    assert found.concerns(str(top), "certs")
    assert found.concerns(f"{top}/certs", "chain.pem")
    assert not found.concerns(f"{top}/certs", "other.pem")
    assert not found.concerns(str(top), "chain.pem")
    assert not found.concerns("/nowhere", "certs")


def test_an_event_concerns_a_listing_that_shows_its_name(top: Path) -> None:
    publish(top, 0)
    found = resolved(top)
    assert found.concerns(str(top), "new.pem")
    assert found.concerns(str(top), "..data")
    assert not found.concerns(str(top), "..new")
    assert not found.concerns(str(top), ".hidden")


def test_an_event_may_change_the_way_where_there_is_or_was_a_link_or_a_directory(top: Path) -> None:
    (top / "dir").mkdir()
    (top / "link").symlink_to("dir")
    (top / "file").touch()
    found = resolved(top / "dir/x", top / "link/x", top / "file", top / "missing")
    assert found.is_bent(str(top), "dir")
    assert found.is_bent(str(top), "link")
    assert not found.is_bent(str(top), "file")
    assert not found.is_bent(str(top), "missing")
    assert not found.is_bent("/nowhere", "x")
    (top / "dir").rmdir()
    (top / "file").unlink()
    (top / "file").mkdir()
    (top / "missing").symlink_to("file")
    assert found.is_bent(str(top), "dir")
    assert found.is_bent(str(top), "file")
    assert found.is_bent(str(top), "missing")


def test_a_file_has_the_names_by_which_the_caller_knows_it(top: Path) -> None:
    (top / "certs").mkdir()
    (top / "certs/chain.pem").touch()
    (top / "link").symlink_to("certs")
    found = resolved(top / "link", f"{top}/certs/", top / "certs/chain.pem")
    assert found.names_of(f"{top}/certs", "chain.pem") == {f"{top}/link/chain.pem", f"{top}/certs/chain.pem"}
    assert found.names_of(f"{top}/certs", "other.pem") == {f"{top}/link/other.pem", f"{top}/certs/other.pem"}
    assert found.names_of(str(top), "chain.pem") == set()


def test_the_places_to_poll_are_the_components_and_the_entries_that_a_listing_shows(top: Path) -> None:
    publish(top, 0)
    (top / "plain").touch()
    (top / ".hidden").touch()
    found = resolved(top)
    assert found.places(str(top)) == {f"{top}/{name}" for name in ("tls.crt", "tls.key", "..data", "..0", "plain")}
    assert found.places(f"{top}/..0") == {f"{top}/..0/tls.crt", f"{top}/..0/tls.key"}
    assert found.places("/nowhere") == set()


def test_the_places_in_a_listing_that_cannot_be_read_are_the_known_ones(top: Path) -> None:
    publish(top, 0)
    found = resolved(top, top / "tls.crt")
    replace_link(top / "..data", "gone")
    for entry in sorted(top.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            for each in entry.iterdir():
                each.unlink()
            entry.rmdir()
        else:
            entry.unlink()
    top.rmdir()
    assert found.places(str(top)) == {f"{top}/{name}" for name in ("tls.crt", "tls.key", "..data", "..0")}


def test_the_places_at_the_root_have_one_slash(top: Path) -> None:
    assert resolved(top / "x").places("/") == {f"/{top.parts[1]}"}


def test_nothing_is_known_of_no_paths() -> None:
    found = resolved()
    assert (found.directories(), found.holders()) == (set(), set())
    assert found == PathResolver()


@pytest.mark.parametrize(("directory", "joined"), [("/", "/x"), ("/a", "/a/x"), ("/a/", "/a/x"), ("a", "a/x")], ids=str)
def test_a_name_is_joined_with_one_slash(directory: str, joined: str) -> None:
    assert join(directory, "x") == joined


def test_a_name_is_what_it_is_now(top: Path) -> None:
    (top / "link").symlink_to("no/where")
    (top / "file").touch()
    os.mkfifo(top / "fifo")
    status = top.stat()
    assert look(str(top.parent), top.name) == Directory(status.st_dev, status.st_ino)
    assert look(str(top), "link") == Link("no/where")
    assert [look(str(top), name) for name in ("file", "fifo", "missing", "nul\0", "file/below")] == [None] * 5


def test_entries_without_a_leading_dot_are_visible(top: Path) -> None:
    for name in ("a", ".b", "..c", "d.e", "..."):
        (top / name).touch()
    assert sorted(entry.name for entry in visible_entries(str(top))) == ["a", "d.e"]
    with pytest.raises(FileNotFoundError):
        visible_entries(str(top / "missing"))
