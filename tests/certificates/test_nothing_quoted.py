"""No message contains a part of a key, whatever damage the key's file has."""

from datetime import UTC, datetime

import pytest
from hypothesis import given

from agent.certificates.discovery import discover, strays
from agent.certificates.findings import Unusable
from agent.certificates.pem import parse
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from agent.core.redact import field_name, without_quotes
from tests.certificates.test_pem import leaf
from tests.mutations import damaged_keys, flattened, key_pem, leaks

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def said_of(content: bytes) -> str:
    """Return all messages about a file: alone, beside a good pair, and in each role of a configuration."""
    contents = {"/c/tls.key": content, "/c/tls.crt": leaf().chain_pem, "/c/all.pem": leaf("rsa").key_pem}
    roles = [Reference("/c/tls.crt", Role.CHAIN, "/c/tls.crt"), Reference("/c/tls.key", Role.KEY, "/c/tls.crt")]
    others = [Reference("/c/tls.key", role, f"as {role}") for role in (Role.CHAIN, Role.BUNDLE)]
    found, selection = discover(contents, NOW), select_files([*roles, *others], contents, LastGood(), NOW)
    said = [each.message for each in (*found.refused, *selection.refused)]
    said += [each.message for each in (*found.strays, *strays(contents, roles), *selection.cautions)]
    try:
        parse("/c/tls.key", content)
    except Unusable as unusable:
        said.append(str(unusable))
    return "\n".join(said)


@given(damaged_keys())
def test_no_message_has_a_part_of_a_damaged_key(drawn: tuple[bytes, bytes]) -> None:
    key, content = drawn
    assert leaks(key, said_of(content)) == []


@pytest.mark.parametrize("separator", [b" ", b"", b"\\n", b"\t", b"\\r\\n"], ids=repr)
def test_lost_line_breaks_are_called_that(separator: bytes) -> None:
    with pytest.raises(Unusable, match="its line breaks are missing; put BEGIN, base64"):
        parse("tls.key", flattened(key_pem("ecdsa", traditional=True), separator))


def test_a_leak_would_be_seen() -> None:
    key = key_pem("ecdsa")
    assert leaks(key, f"cannot use tls.key: {flattened(key, b' ').decode()[:60]}")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("found undefined alias 'MHcCAQEEIB'", "found undefined alias …"),
        ("found character '\t' that cannot start any token", "found character ' ' that cannot start any token"),
        ('expected "MHcCAQEEIB', "expected …"),
        ("did not find expected key", "did not find expected key"),
    ],
)
def test_what_a_parser_quotes_is_cut_out_of_its_message(text: str, left: str) -> None:
    assert without_quotes(text) == left


def test_only_what_looks_like_a_field_is_named() -> None:
    assert [field_name(each, "-") for each in ("private_key", "MHcCAQEE", "a1b2", "")] == ["private_key", "-", "-", "-"]
