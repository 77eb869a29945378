"""Pairs, bundles and unused files, discovered by content."""

import base64
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.contents import Contents, Unreadable
from agent.certificates.discovery import discover, strays
from agent.certificates.findings import Fallback, Fault, WarningKind
from agent.certificates.pem import parse
from agent.certificates.references import Reference, Role
from tests.certificates.disk import DAY, NOW
from tests.pki import FROM, Algorithm, Authority, Leaf


@cache
def root() -> Authority:
    return Authority.create("root")


@cache
def middle() -> Authority:
    return root().intermediate("middle")


@cache
def leaf(name: str = "a.example") -> Leaf:
    return middle().issue([name])


def pair(chain: str, key: str) -> list[Reference]:
    return [Reference(chain, Role.CHAIN, chain), Reference(key, Role.KEY, chain)]


def found(contents: Contents) -> list[Reference]:
    return list(discover(contents, NOW).references)


def refused(contents: Contents) -> list[tuple[str, Fault]]:
    return [(each.path, each.fault) for each in discover(contents, NOW).refused]


def stray_paths(contents: Contents) -> list[str]:
    return [caution.path for caution in discover(contents, NOW).strays]


@pytest.mark.parametrize(
    ("chain", "key", "authorities"),
    [
        ("cert-chain.pem", "key.pem", "root-cert.pem"),
        ("tls.crt", "tls.key", "ca.crt"),
        ("svid.0.pem", "svid_key.0.pem", "svid_bundle.0.pem"),
    ],
)
def test_the_usual_names_make_a_pair_and_a_bundle(chain: str, key: str, authorities: str) -> None:
    contents = {chain: leaf().chain_pem, key: leaf().key_pem, authorities: root().pem}
    assert found(contents) == [*pair(chain, key), Reference(authorities, Role.BUNDLE, authorities)]
    assert discover(contents, NOW).strays == ()


def test_certbot_serves_its_full_chain_and_nothing_there_is_stray() -> None:
    contents = {
        "cert.pem": leaf().certificate_pem,
        "chain.pem": middle().pem,
        "fullchain.pem": leaf().chain_pem,
        "privkey.pem": leaf().key_pem,
    }
    assert found(contents) == pair("fullchain.pem", "privkey.pem")
    assert discover(contents, NOW).strays == ()


def test_everything_may_be_in_one_file() -> None:
    assert found({"all.pem": leaf().key_pem + leaf().chain_pem}) == pair("all.pem", "all.pem")


def test_of_two_certificates_for_one_key_the_newer_is_served_and_the_older_is_stray() -> None:
    newer = root().issue(["a.example"], leaf().key, not_before=FROM.replace(year=2021))
    contents = {"1.pem": leaf().chain_pem, "2.pem": newer.chain_pem, "key.pem": leaf().key_pem}
    assert found(contents) == pair("2.pem", "key.pem")
    assert stray_paths(contents) == ["1.pem"]


def test_a_key_is_taken_from_beside_its_chain() -> None:
    contents = {"/a/key.pem": leaf().key_pem, "/b/chain.pem": leaf().chain_pem, "/b/key.pem": leaf().key_pem}
    assert found(contents) == pair("/b/chain.pem", "/b/key.pem")
    assert stray_paths(contents) == []


def test_an_authority_with_its_key_beside_what_it_issued_is_a_bundle_and_its_key_a_stray() -> None:
    lone = root().issue(["b.example"])
    ca_key = Leaf(root().certificate, root().pem, root().key).key_pem
    contents = {"ca.crt": root().pem, "ca.key": ca_key, "tls.crt": lone.chain_pem, "tls.key": lone.key_pem}
    assert found(contents) == [*pair("tls.crt", "tls.key"), Reference("ca.crt", Role.BUNDLE, "ca.crt")]
    assert stray_paths(contents) == ["ca.key"]


def test_a_self_signed_certificate_with_its_key_is_a_pair() -> None:
    contents = {"a.crt": root().pem, "a.key": Leaf(root().certificate, root().pem, root().key).key_pem}
    assert found(contents) == pair("a.crt", "a.key")


def test_halves_without_their_other_half_are_strays() -> None:
    contents = {"a.crt": leaf().chain_pem, "b.key": leaf("b.example").key_pem, "c.key": leaf().encrypted_key_pem()}
    assert found(contents) == []
    assert [each.path for each in strays(contents, ())] == ["a.crt", "b.key", "c.key"]
    assert "encrypted" in strays(contents, ())[2].message


def test_an_unreadable_file_is_reported_before_a_file_that_is_not_pem() -> None:
    contents: Contents = {
        "README": b"hello",
        "a.der": b"\x30\x82\x01\x00",
        "b.pem": leaf().chain_pem[:200],
        "c.pem": b"",
        "d.pem": Unreadable("it does not exist"),
    }
    assert refused(contents) == [
        ("b.pem", Fault.INCOMPLETE),
        ("c.pem", Fault.EMPTY),
        ("d.pem", Fault.MISSING),
    ]
    only_foreign = {path: contents[path] for path in ("README", "a.der")}
    assert refused(only_foreign) == [("README", Fault.UNPARSABLE), ("a.der", Fault.UNPARSABLE)]


def test_files_the_configuration_does_not_name_are_strays_if_they_hold_something_new() -> None:
    contents: dict[str, bytes | Unreadable] = {
        "chain.pem": leaf().chain_pem,
        "key.pem": leaf().key_pem,
        "copy.pem": leaf().certificate_pem,
        "ca.pem": root().pem,
        "README": b"hello",
        "new.pem": leaf("b.example").chain_pem,
    }
    (stray,) = strays(contents, pair("chain.pem", "key.pem"))
    assert (stray.path, stray.worry) == ("new.pem", WarningKind.STRAY)


PAIRS = (leaf(), leaf("b.example"))
PARTS = st.sampled_from([root().pem, *(part for one in PAIRS for part in (one.chain_pem, one.key_pem))])
CONTENTS = st.dictionaries(st.sampled_from("abcdef"), st.lists(PARTS, max_size=3).map(b"".join) | st.binary(max_size=9))


@given(CONTENTS)
def test_any_directory_gives_the_same_result_in_any_order(contents: dict[str, bytes]) -> None:
    assert discover(dict(reversed(contents.items())), NOW) == discover(contents, NOW)


@given(CONTENTS)
def test_every_pair_found_is_one(contents: dict[str, bytes]) -> None:
    pairs: dict[str, dict[Role, bytes]] = {}
    for reference in found(contents):
        pairs.setdefault(reference.group, {})[reference.role] = contents[reference.path]
    for files in pairs.values():
        if Role.BUNDLE not in files:
            begins = [one for one in PAIRS if parse("", files[Role.CHAIN]).certificates[0] == one.certificate]
            assert [one for one in begins if one.key_pem in files[Role.KEY]]


# Reasons for a missing pair


def test_a_key_that_does_not_fit_is_named_with_its_leaf() -> None:
    (found,) = discover({"tls.crt": leaf().chain_pem, "tls.key": leaf("b.example").key_pem}, NOW).refused
    assert (found.path, found.fault, found.meanwhile) == ("tls.key", Fault.MISMATCH, Fallback.NOTHING)
    assert "the leaf in tls.crt" in found.why


def test_of_several_keys_the_one_of_the_most_similar_name_was_meant() -> None:
    strangers = {f"{name}.key": leaf(f"other-{name}").key_pem for name in ("a", "b")}
    found = refused({"b.crt": leaf("b.example").chain_pem, "a.crt": leaf().chain_pem, **strangers})
    assert [path for path, _ in found] == ["a.key", "b.key"]


def test_the_half_of_a_pair_that_is_not_there_is_asked_for() -> None:
    assert refused({"tls.crt": leaf().chain_pem, "ca.crt": root().pem}) == [("tls.crt", Fault.MISSING)]
    assert refused({"tls.key": leaf().key_pem}) == [("tls.key", Fault.MISSING)]
    assert refused({"tls.key": leaf().key_pem, "README": b"hello"}) == [("tls.key", Fault.MISSING)]


@pytest.mark.parametrize(
    "spoilt",
    [b"\x30\x82\x01\x00", b"garbage", b"", leaf().chain_pem[:200], Unreadable("no right")],
    ids=["DER", "garbage", "empty", "half a PEM block", "unreadable"],  # PEM blocks are in random order in each process
)
def test_the_half_that_cannot_be_read_is_not_called_missing_too(spoilt: bytes | Unreadable) -> None:
    assert [path for path, _ in refused({"tls.crt": spoilt, "tls.key": leaf().key_pem})] == ["tls.crt"]
    assert [path for path, _ in refused({"tls.crt": leaf().chain_pem, "tls.key": spoilt})] == ["tls.key"]


def test_an_authority_alone_is_asked_for_its_key() -> None:
    """`openssl req -x509` creates such a certificate for serving."""
    assert refused({"tls.crt": root().pem, "tls.key": leaf().key_pem}) == [("tls.key", Fault.MISMATCH)]


def test_an_encrypted_key_is_named() -> None:
    (found,) = discover({"tls.crt": leaf().chain_pem, "tls.key": leaf().encrypted_key_pem()}, NOW).refused
    assert (found.path, found.why) == ("tls.key", "it is encrypted")


def test_a_leaf_together_with_its_self_signed_root_is_no_bundle_and_asks_for_its_key() -> None:
    contents = {"tls.pem": leaf().chain_pem + root().pem}
    assert found(contents) == []
    assert refused(contents) == [("tls.pem", Fault.MISSING)]


def test_a_root_together_with_an_intermediate_is_a_bundle_and_intermediates_alone_are_none() -> None:
    both, alone = middle().pem + root().pem, middle().pem
    assert found({"ca.pem": both, **GOOD}) == [*pair("a.crt", "a.key"), Reference("ca.pem", Role.BUNDLE, "ca.pem")]
    assert found({"ca.pem": alone, **GOOD}) == pair("a.crt", "a.key")


def test_two_authorities_that_issued_each_other_are_told_that_one_is_to_be_left() -> None:
    one, other = Authority.create("one"), Authority.create("other")
    crossed = {
        "a.crt": other.intermediate("one", one.key).pem,
        "a.key": pem_of(one),
        "b.crt": one.intermediate("other", other.key).pem,
        "b.key": pem_of(other),
    }
    assert refused(crossed) == [("a.crt", Fault.MISMATCH), ("b.crt", Fault.MISMATCH)]
    assert all("issued" in each.why for each in discover(crossed, NOW).refused)


def on_an_unknown_curve(pem: bytes) -> bytes:
    """Replace prime256v1 by prime239v3, which the cryptography library does not know."""
    begin, *body, end = pem.splitlines(keepends=True)
    der = base64.b64decode(b"".join(body)).replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106"))
    return begin + base64.encodebytes(der) + end


def test_a_pair_on_an_unknown_curve_is_told_that_it_cannot_be_compared() -> None:
    contents = {"a.crt": on_an_unknown_curve(leaf().certificate_pem), "a.key": on_an_unknown_curve(leaf().key_pem)}
    assert found(contents) == []
    (rejection,) = discover(contents, NOW).refused
    assert (rejection.path, rejection.fault) == ("a.crt", Fault.UNPARSABLE)
    assert "a.key" in rejection.why


# A broken pair beside a good one


GOOD = {"a.crt": leaf().chain_pem, "a.key": leaf().key_pem}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"b.crt": leaf("b.example").chain_pem, "b.key": leaf("c.example").key_pem}, "b.key"),
        ({"b.crt": leaf("b.example").chain_pem, "b.key": b"garbage"}, "b.key"),
        ({"b.crt": b"\x30\x82\x01\x00", "b.key": leaf("b.example").key_pem}, "b.crt"),
        ({"b.crt": leaf("b.example").chain_pem[:200], "b.key": leaf("b.example").key_pem}, "b.crt"),
    ],
)
def test_what_its_name_makes_half_of_a_pair_is_refused_and_nothing_of_it_stray(
    files: dict[str, bytes], named: str
) -> None:
    found = discover({**GOOD, **files}, NOW)
    assert [(each.path, each.meanwhile) for each in found.refused] == [(named, Fallback.OTHERS)]
    assert found.strays == ()
    assert [each.path for each in found.references] == ["a.crt", "a.key"]


@pytest.mark.parametrize(
    ("files", "stray"),
    [
        ({"tls.crt.old": leaf("b.example").chain_pem}, ["tls.crt.old"]),
        ({"b.key": leaf("b.example").key_pem}, ["b.key"]),
        ({"b.crt": leaf("b.example").chain_pem[:200]}, ["b.crt"]),
        ({"README": b"hello", "a.p12": b"\x30\x82\x01\x00", "a.srl": b"01"}, []),
    ],
)
def test_what_may_lie_there_on_purpose_is_not_refused(files: dict[str, bytes], stray: list[str]) -> None:
    found = discover({**GOOD, **files}, NOW)
    assert found.refused == ()
    assert [each.path for each in found.strays] == stray


def test_an_authority_with_its_key_and_its_serial_numbers_is_no_broken_pair() -> None:
    authority = {"ca.crt": root().pem, "ca.key": pem_of(root()), "ca.srl": b"01"}
    assert discover({**GOOD, **authority}, NOW).refused == ()


def pem_of(authority: Authority) -> bytes:
    """Return the key of an authority."""
    return Leaf(authority.certificate, authority.pem, authority.key).key_pem


@pytest.mark.parametrize("days", [(1, 400), (-400, -1)], ids=["from tomorrow", "until yesterday"])
def test_of_two_chains_for_one_key_the_one_that_is_valid_is_taken(days: tuple[int, int]) -> None:
    """The newer one would be shown to clients that refuse it, in place of a valid one."""
    good = root().issue(["a.example"], not_before=NOW - 10 * DAY, not_after=NOW + 10 * DAY)
    other = root().issue(["a.example"], good.key, not_before=NOW + days[0] * DAY, not_after=NOW + days[1] * DAY)
    contents = {"a.crt": good.chain_pem, "b.crt": other.chain_pem, "tls.key": good.key_pem}
    assert [each.path for each in discover(contents, NOW).references] == ["a.crt", "tls.key"]
    later = discover(contents, NOW + 2 * DAY)
    assert later.references[0].path == ("b.crt" if days[0] > 0 else "a.crt")


def test_when_another_one_becomes_valid_it_is_looked_at_again() -> None:
    good = root().issue(["a.example"], not_before=NOW - 10 * DAY, not_after=NOW + 10 * DAY)
    coming = root().issue(["a.example"], good.key, not_before=NOW + DAY, not_after=NOW + 9 * DAY)
    contents = {"a.crt": good.chain_pem, "b.crt": coming.chain_pem, "tls.key": good.key_pem}
    assert discover(contents, NOW).look_again == NOW + DAY
    assert discover(contents, NOW + 2 * DAY).look_again is None


@pytest.mark.parametrize(
    ("names", "key", "days", "superseded"),
    [
        (["a.example"], "ecdsa", (-9, -1), ["b.crt"]),
        (["a.example"], "ecdsa", (1, 9), ["b.crt"]),
        (["a.example", "b.example"], "ecdsa", (-9, -1), []),
        (["a.example"], "rsa", (-9, -1), []),
        (["a.example"], "ecdsa", (-9, 9), []),
    ],
    ids=["expired", "not yet valid", "another name", "another kind of key", "valid"],
)
def test_a_pair_that_is_not_valid_is_superseded_by_a_valid_one_with_its_names(
    names: list[str], key: Algorithm, days: tuple[int, int], superseded: list[str]
) -> None:
    good = root().issue(["a.example", "c.example"])
    other = root().issue(names, key, NOW + days[0] * DAY, NOW + days[1] * DAY)
    files = {"a.crt": good.chain_pem, "a.key": good.key_pem, "b.crt": other.chain_pem, "b.key": other.key_pem}
    pairs = discover(files, NOW)
    refusals = list(pairs.superseded({"a.crt", "b.crt"}, NOW))
    assert [(each.path, each.meanwhile) for each in refusals] == [(path, Fallback.OTHERS) for path in superseded]
    assert list(pairs.superseded({"b.crt"}, NOW)) == [], "nothing else could be served"
