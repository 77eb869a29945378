"""What an earlier discovery has parsed changes no result, only the work."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates import parsed_files
from agent.certificates.contents import Unreadable
from agent.certificates.discovery import discover
from agent.certificates.parsed_files import ParsedFiles
from agent.certificates.pem import PemFile, parse
from tests.certificates.disk import GONE, NOW, leaf, new, old, other_root, root

PATHS = ("/c/a.crt", "/c/a.key", "/c/b.crt", "/c/b.key", "/c/ca.crt")
CONTENTS = range(9)


@cache
def content(number: int) -> bytes | Unreadable:
    """Return one of the contents that a file may have."""
    expired = leaf(-20, -10)
    return (
        *(old().chain_pem, old().key_pem, new().chain_pem, new().key_pem, new().key_pem + new().chain_pem),
        *(expired.chain_pem + expired.key_pem, root().pem + other_root().pem, b"garbage", GONE),
    )[number]


@given(st.lists(st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS)), min_size=2, max_size=5))
def test_a_discovery_after_others_equals_one_from_scratch(disks: list[dict[str, int]]) -> None:
    parsed = ParsedFiles()
    for disk in disks:
        contents = {path: content(number) for path, number in disk.items()}
        assert discover(contents, NOW, parsed) == discover(contents, NOW)


def test_equal_bytes_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list[str]()

    def counted(path: str, content: bytes) -> PemFile:
        paths.append(path)
        return parse(path, content)

    monkeypatch.setattr(parsed_files, "parse", counted)
    parsed = ParsedFiles()
    contents = {"a": old().chain_pem, "b": old().key_pem, "c": b"garbage"}
    parsed.parse(contents)
    assert paths == ["a", "b", "c"]
    parsed.parse({**contents, "b": bytes(bytearray(old().key_pem))})
    assert paths == ["a", "b", "c"]
    parsed.parse({**contents, "b": new().key_pem})
    assert paths == ["a", "b", "c", "b"]


def test_files_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = ParsedFiles()
    first, _ = parsed.parse({"a": old().chain_pem})
    parsed.parse({})
    second, _ = parsed.parse({"a": old().chain_pem})
    assert first == second
    assert first["a"] is not second["a"]


def test_files_without_any_pem_are_told_apart_from_damaged_ones() -> None:
    files, broken = ParsedFiles().parse({"a": b"text", "b": b"-----BEGIN ", "c": GONE, "d": b" ", "e": old().key_pem})
    assert list(files) == ["e"]
    assert files["e"].certificates == ()
    assert [each.path for each in broken.foreign] == ["a"]
    assert [each.path for each in broken.damaged] == ["b", "c", "d"]
