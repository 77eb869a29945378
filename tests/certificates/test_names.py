from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.names import named


def test_one_set_is_called_by_its_file() -> None:
    assert named(["/etc/certs/tls.crt"]) == {"/etc/certs/tls.crt": "tls"}


def test_only_those_of_one_name_need_more_of_it() -> None:
    assert named(["/c/web/tls.crt", "/c/api/tls.crt", "/c/svid.pem"]) == {
        "/c/web/tls.crt": "web/tls",
        "/c/api/tls.crt": "api/tls",
        "/c/svid.pem": "svid",
    }


def test_those_that_differ_in_the_suffix_alone_are_called_by_it() -> None:
    assert named(["/c/a.crt", "/c/a.pem"]) == {"/c/a.crt": "/c/a.crt", "/c/a.pem": "/c/a.pem"}


def test_no_set_has_no_name() -> None:
    assert named([]) == {}


def test_a_set_that_is_named_twice_is_one() -> None:
    assert named(["/c/a.crt", "/c/a.crt"]) == {"/c/a.crt": "a"}


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (["/a/x/tls.crt", "/b/x/tls.crt", "/b/y/tls.crt"], ["a/x/tls", "b/x/tls", "y/tls"]),
        (["/tls.crt", "/c/tls.crt"], ["/tls", "c/tls"]),
        (["tls.crt", "c/tls.crt"], ["tls", "c/tls"]),
        (["/c/.crt", "/c/.pem"], [".crt", ".pem"]),
        (["/c/v1.2/tls", "/c/v1.3/tls"], ["v1.2/tls", "v1.3/tls"]),
        (["/c/tls.0.pem", "/c/tls.1.pem"], ["tls.0", "tls.1"]),
        (["/c/a.crt", "/c/a.pem", "/c/b.crt"], ["/c/a.crt", "/c/a.pem", "b"]),
        (
            ["/c/a.crt", "/c/a.pem", "/c/a.crt.pem", "/x/c/a.crt.pem"],
            ["/c/a.crt", "/c/a.pem", "/c/a.crt.pem", "x/c/a.crt"],
        ),
    ],
)
def test_as_many_parts_are_shown_as_tell_them_apart(groups: list[str], names: list[str]) -> None:
    assert list(map(named(groups).__getitem__, groups)) == names


PATHS = [
    f"{root}{directory}{file}"
    for root, directory, file in product(
        ("/", "/x/", ""), ("", "c/", "c/d/"), ("a.crt", "a.pem", "a.crt.pem", "a", "b.crt", ".crt")
    )
]


@given(st.sets(st.sampled_from(PATHS)))
def test_no_two_sets_have_one_name(groups: set[str]) -> None:
    names = named(groups)
    assert set(names) == groups
    assert len(set(names.values())) == len(groups)
