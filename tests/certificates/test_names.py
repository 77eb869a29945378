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


@given(st.sets(st.from_regex(r"/([ab]/){0,3}[ab]\.(crt|pem)", fullmatch=True)))
def test_no_two_sets_have_one_name(units: set[str]) -> None:
    names = named(units)
    assert set(names) == units
    assert len(set(names.values())) == len(units)
