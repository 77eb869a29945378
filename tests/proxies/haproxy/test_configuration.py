"""Copies differ from the operator's files in the paths that became descriptors, and in nothing else."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.proxies.haproxy.configuration import Configuration
from tests.proxies.haproxy.programs import checked
from tests.system.certificates import Mint

HOME = "/home of/1"


def configured(text: str, *lists: dict[str, str], pushes: bool = False) -> Configuration:
    """Parse a configuration; `lists` are lists of certificates and of directories, by path."""
    encoded = {path: content.encode() for each in lists for path, content in each.items()}
    return Configuration(text, "/etc/h.cfg", "/run", {}, encoded, pushes=pushes)


def bound(certificates: str, more: str = "") -> str:
    """Return a configuration with one TLS listener."""
    return f"global\n{more}defaults\n mode http\nfrontend x\n bind :443 ssl {certificates}\n"


def listing(directory: str, *names: str) -> dict[str, str]:
    """Return the list of a directory."""
    return {f"{directory}/*": "\n".join(f"{directory}/{name}" for name in names)}


def paths(found: Configuration) -> dict[str, int]:
    """Return a descriptor for each file."""
    return {path: number for number, path in enumerate(dict.fromkeys(each.path for each in found.references), 10)}


def filled(found: Configuration, descriptors: Mapping[str, int] | None = None) -> str:
    """Return the copy in which these files are descriptors, by default all."""
    numbers = paths(found) if descriptors is None else descriptors
    return found.copies(numbers.keys()).fill(HOME, 1, numbers)[0]


def test_lists_and_directories_are_asked_for() -> None:
    text = bound("crt /c/a.pem crt /c/sub crt-list /l/list")
    assert configured(text).unread == ["/l/list", "/c/*"]
    found = configured(text, listing("/c", "a.pem", "sub/"), {"/l/list": "/m/b.pem\n"})
    assert found.unread == ["/m/*", "/c/sub/*"]


def test_a_certificate_is_a_chain_and_its_key() -> None:
    found = configured(bound("crt /c/a.pem ca-file /c/roots crl-file /c/crl"), listing("/c", "a.pem", "roots"))
    assert found.references == [
        Reference("/c/a.pem", Role.CHAIN, "/c/a.pem"),
        Reference("/c/a.pem", Role.KEY, "/c/a.pem"),
        Reference("/c/roots", Role.BUNDLE, "/c/roots"),
        Reference("/c/crl", Role.OTHER, "/c/roots"),
    ]
    assert "ssl crt /dev/fd/10 ca-file /dev/fd/11 crl-file /dev/fd/12\n" in filled(found)


def test_companions_are_links_beside_it() -> None:
    found = configured(bound("crt /c/a.pem"), listing("/c", "a.pem", "a.pem.key", "a.pem.ocsp", "b.pem.key"))
    numbers = {"/c/a.pem": 10, "/c/a.pem.key": 11, "/c/a.pem.ocsp": 12}
    tree = found.copies(numbers.keys()).tree(HOME, numbers)
    (view,) = {name.partition("/")[0] for name in tree}
    assert tree == {
        f"{view}/a.pem{suffix}": f"/dev/fd/{number}" for suffix, number in [("", 10), (".key", 11), (".ocsp", 12)]
    }
    assert f"crt '{HOME}/{view}/a.pem'\n" in filled(found, numbers)


def test_a_directory_is_a_directory_of_links() -> None:
    names = ("a.pem", "b.pem", "b.pem.key", "sub/", "c.issuer")
    found = configured(bound("crt /c/d"), listing("/c", "d/"), listing("/c/d", *names))
    numbers = {"/c/d/a.pem": 10, "/c/d/b.pem": 11, "/c/d/b.pem.key": 12}
    assert {each.path for each in found.references} == numbers.keys()
    tree = found.copies(numbers.keys()).tree(HOME, numbers)
    (view,) = {name.partition("/")[0] for name in tree}
    assert {name.partition("/")[2] for name in tree} == {"a.pem", "b.pem", "b.pem.key"}
    assert f"crt '{HOME}/{view}'\n" in filled(found, numbers)
    del numbers["/c/d/a.pem"]
    assert "crt /c/d\n" in filled(found, numbers), "a part of a directory is no directory"


def test_a_bundle_is_loaded_where_there_is_no_file_of_its_name() -> None:
    found = configured(bound("crt /c/a.pem"), listing("/c", "a.pem.rsa", "a.pem.ecdsa"))
    numbers = {"/c/a.pem.ecdsa": 10, "/c/a.pem.rsa": 11}
    assert {each.path for each in found.references} == numbers.keys()
    tree = found.copies(numbers.keys()).tree(HOME, numbers)
    assert {name.partition("/")[2] for name in tree} == {"a.pem.rsa", "a.pem.ecdsa"}
    assert filled(found, numbers).rstrip().endswith("/a.pem'")
    none = configured(bound("crt /c/a.pem", " ssl-load-extra-files none\n"), listing("/c", "a.pem.rsa"))
    assert {each.path for each in none.references} == {"/c/a.pem"}


def test_a_key_of_another_name_is_linked_under_the_name_that_haproxy_looks_for() -> None:
    found = configured(bound("crt /c/full.pem", " # agent: key /c/full.pem /k/priv.pem\n"), listing("/c", "full.pem"))
    assert Reference("/k/priv.pem", Role.KEY, "/c/full.pem") in found.references
    tree = found.copies(paths(found).keys()).tree(HOME, paths(found))
    assert {name.partition("/")[2]: target for name, target in tree.items()} == {
        "full.pem": "/dev/fd/10",
        "full.pem.key": "/dev/fd/11",
    }


def test_a_list_is_copied_with_other_paths() -> None:
    text = "# c\n a.pem [ca-file /c/roots verify required] x.test\n/c/b.pem\n"
    found = configured(bound("crt-list /l", " crt-base /c\n"), {"/l": text}, listing("/c", "a.pem", "b.pem"))
    numbers = {"/c/a.pem": 10, "/c/b.pem": 11, "/c/roots": 12}
    assert {each.path for each in found.references} == numbers.keys()
    (copy,) = found.copies(numbers.keys()).tree(HOME, numbers).values()
    assert copy == b"# c\n /dev/fd/10 [ca-file /dev/fd/12 verify required] x.test\n/dev/fd/11\n"


def test_what_can_be_pushed_has_haproxys_own_name() -> None:
    found = configured(
        bound("crt /c/a.pem crt /c/b.pem ca-file /c/roots tls-ticket-keys /c/t"),
        listing("/c", "a.pem", "b.pem", "b.pem.key", "b.pem.ocsp"),
        pushes=True,
    )
    assert found.pushable_files == {"/c/a.pem", "/c/b.pem", "/c/b.pem.key", "/c/roots"}
    assert configured(found.text).pushable_files == frozenset()


def test_a_list_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^cannot read /l: byte 0 is not UTF-8"):
        Configuration(bound("crt-list /l"), "h", "/", {}, {"/l": b"\xff"}, pushes=False)


LINES = st.lists(
    st.sampled_from(["global", " daemon", "frontend x", " bind :1 ssl crt /a crt '/b c'", "# é", " a 'b", ""])
)


@given(LINES)
def test_a_copy_with_nothing_materialised_is_the_original_but_for_the_agents_part(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        found = configured(text)
    except BadInput:
        return
    assert [
        (old, new) for old, new in zip(text.split("\n"), filled(found, {}).split("\n"), strict=True) if old != new
    ] == [(" daemon", " # daemon: the agent does it")] * (filled(found, {}).count("# daemon"))


@given(LINES)
def test_every_other_byte_stays(lines: list[str]) -> None:
    text = "\n".join(["frontend y", *(line for line in lines if line not in {"global", " daemon", " a 'b"})])
    found = configured(text)
    copy = filled(found, {"/a": 7, "/b c": 8})
    assert copy == text.replace("crt /a", "crt /dev/fd/7").replace("crt '/b c'", "crt /dev/fd/8")


@pytest.mark.parametrize(
    "more", ["", " no-such-word\n", " bind :1x\n", " use_backend nowhere if { path /x }\n", " 'open\n"]
)
def test_haproxy_accepts_a_copy_if_it_accepts_the_original(more: str, tmp_path: Path) -> None:
    leaf = Mint().leaf()
    pem = tmp_path / "a.pem"
    pem.write_bytes(leaf.chain_pem + leaf.key_pem)
    text = (
        "defaults\n mode http\n timeout client 1s\n timeout connect 1s\n timeout server 1s\n"
        f"frontend x\n bind 127.0.0.1:1 ssl crt {pem}\n{more}"
    )
    (tmp_path / "original.cfg").write_text(text, encoding="ascii")
    original = checked(tmp_path / "original.cfg", dict(os.environ))
    try:
        found = Configuration(text, "h.cfg", str(tmp_path), os.environ, {f"{tmp_path}/*": b""}, pushes=False)
    except BadInput:
        assert original.code != 0
        return
    held = tmp_path / "held"
    held.write_bytes(pem.read_bytes())
    copy = filled(found, {str(pem): 99}).replace("/dev/fd/99", str(held))
    (tmp_path / "copy.cfg").write_text(copy, encoding="ascii")
    assert str(held) in copy
    assert (checked(tmp_path / "copy.cfg", dict(os.environ)).code == 0) is (original.code == 0)


@pytest.mark.parametrize(
    ("more", "names"),
    [("", {"a.crt.pem", "a.crt.pem.key"}), (" ssl-load-extra-del-ext\n", {"a.crt", "a.key"})],
)
def test_no_link_has_a_name_that_the_console_cannot_set(more: str, names: set[str]) -> None:
    found = configured(bound("crt /c/a.crt", more), listing("/c", "a.crt", "a.crt.key", "a.key"), pushes=True)
    tree = found.copies(paths(found).keys()).tree(HOME, paths(found))
    assert {name.partition("/")[2] for name in tree} == names
