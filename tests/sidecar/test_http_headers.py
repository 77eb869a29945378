import re
import time

import h11
import pytest

from agent.sidecar.http_headers import date, framing, is_framed_well, nominated, own, to_client, to_upstream, upgrade_of

Headers = list[tuple[str, str]]


def asked(*headers: tuple[str, str], method: str = "GET") -> h11.Request:
    return h11.Request(method=method, target="/", headers=[("Host", "client.example"), *headers])


def answered(*headers: tuple[str, str], status: int = 200) -> h11.Response:
    return h11.Response(status_code=status, headers=list(headers))


def sent_up(*headers: tuple[str, str], is_secure: bool = False, timeout: float = 0) -> Headers:
    """What a cluster gets, without the request's id."""
    made = to_upstream(asked(*headers), b"a.example", is_secure=is_secure, timeout=timeout)
    return [(name.decode(), value.decode()) for name, value in made if name != b"x-request-id"]


def sent_down(*headers: tuple[str, str], service_time: int = 7) -> Headers:
    """What a client gets, without the date that is added."""
    made = to_client(answered(*headers), service_time, b"us")
    return [(name.decode(), value.decode()) for name, value in made if name != b"date"]


PROTO = ("x-forwarded-proto", "http")


def test_the_authority_replaces_the_host() -> None:
    assert sent_up() == [("host", "a.example"), PROTO]


@pytest.mark.parametrize(
    "name",
    ["connection", "keep-alive", "proxy-connection", "upgrade", "expect", "Keep-Alive"],
)
def test_headers_of_one_hop_go_no_further(name: str) -> None:
    assert sent_up((name, "x")) == [("host", "a.example"), PROTO]


def test_headers_that_the_client_nominates_go_no_further() -> None:
    given = [
        ("Connection", "X-One ,x-two"),
        ("connection", "x-three"),
        ("x-one", "1"),
        ("X-Two", "2"),
        ("x-three", "3"),
    ]
    assert sent_up(*given, ("x-four", "4")) == [("host", "a.example"), ("x-four", "4"), PROTO]


@pytest.mark.parametrize("nominee", ["host", "content-length", "transfer-encoding", "x-forwarded-proto", "te"])
def test_what_the_sidecar_needs_cannot_be_nominated_away(nominee: str) -> None:
    assert sent_up(("connection", nominee), ("content-length", "3")) == [
        ("host", "a.example"),
        PROTO,
        ("content-length", "3"),
    ]


@pytest.mark.parametrize(
    ("given", "is_sent"), [("trailers", True), ("gzip ,  Trailers , x", True), ("gzip", False), ("", False)]
)
def test_only_trailers_are_accepted_from_the_cluster(given: str, is_sent: bool) -> None:
    assert (("te", "trailers") in sent_up(("te", given))) is is_sent
    assert [value for name, value in sent_up(("te", given)) if name == "te"] in ([], ["trailers"])


@pytest.mark.parametrize(("is_secure", "scheme"), [(True, "https"), (False, "http")])
def test_the_cluster_is_told_the_client_s_scheme(is_secure: bool, scheme: str) -> None:
    assert sent_up(is_secure=is_secure)[-1] == ("x-forwarded-proto", scheme)


def test_what_an_earlier_proxy_told_stays() -> None:
    assert sent_up(("X-Forwarded-Proto", "https")) == [("host", "a.example"), ("x-forwarded-proto", "https")]
    made = to_upstream(asked(("X-Request-Id", "mine")), b"a", is_secure=False, timeout=0)
    assert [value for name, value in made if name == b"x-request-id"] == [b"mine"]


def test_a_request_gets_a_random_uuid_of_version_4() -> None:
    made = {dict(to_upstream(asked(), b"a", is_secure=False, timeout=0))[b"x-request-id"] for _ in range(500)}
    assert len(made) == 500
    pattern = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(pattern, each) for each in made)
    assert {each[19:20] for each in made} == {b"8", b"9", b"a", b"b"}
    assert {each[0:1] for each in made} == {each[-1:] for each in made} == set(map(bytes, zip(b"0123456789abcdef")))


@pytest.mark.parametrize(("timeout", "told"), [(15.0, "15000"), (0.25, "250"), (0.0004, "0")])
def test_the_cluster_is_told_the_route_s_timeout(timeout: float, told: str) -> None:
    assert sent_up(timeout=timeout)[-1] == ("x-envoy-expected-rq-timeout-ms", told)


def test_without_a_timeout_the_cluster_is_told_none() -> None:
    assert sent_up(timeout=0) == [("host", "a.example"), PROTO]


def test_headers_keep_their_order_and_their_repetitions() -> None:
    given = [("b", "1"), ("a", "2"), ("b", "3"), ("cookie", "x=1"), ("cookie", "y=2")]
    assert sent_up(*given) == [("host", "a.example"), *given, PROTO]


@pytest.mark.parametrize(
    ("headers", "frame"),
    [
        ([], []),
        ([("content-length", "0")], [(b"content-length", b"0")]),
        ([("Content-Length", "12")], [(b"content-length", b"12")]),
        ([("Transfer-Encoding", "Chunked")], [(b"transfer-encoding", b"chunked")]),
    ],
)
def test_a_body_is_framed_as_it_came(headers: Headers, frame: list[tuple[bytes, bytes]]) -> None:
    assert framing(asked(*headers, method="POST").headers) == frame


def test_nominations_are_tokens_in_any_case_and_any_number_of_lines() -> None:
    assert nominated(asked(("connection", "Close,  X-A"), ("connection", "x-b")).headers) == {b"close", b"x-a", b"x-b"}
    assert nominated(asked().headers) == set()


@pytest.mark.parametrize(
    ("upgrade", "connection", "found"),
    [
        ("websocket", "Upgrade", b"websocket"),
        ("WebSocket", "keep-alive, upgrade", b"websocket"),
        ("websocket", "keep-alive", b""),
        ("h2c", "upgrade", b""),
        ("H2C", "upgrade", b""),
        ("h2c, websocket", "upgrade", b"h2c, websocket"),
        ("", "upgrade", b""),
    ],
)
def test_an_upgrade_wants_both_headers_and_h2c_is_none(upgrade: str, connection: str, found: bytes) -> None:
    assert upgrade_of(asked(("upgrade", upgrade), ("connection", connection)).headers) == found


def test_several_upgrade_headers_are_one_list() -> None:
    given = asked(("upgrade", "h2c"), ("upgrade", "foo"), ("connection", "upgrade"))
    assert upgrade_of(given.headers) == b"h2c, foo"


# Responses


def test_a_response_tells_its_time_and_the_proxy() -> None:
    assert sent_down(("x-a", "1")) == [("x-a", "1"), ("x-envoy-upstream-service-time", "7"), ("server", "us")]


@pytest.mark.parametrize(
    "name", ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "server", "Server"]
)
def test_a_response_loses_the_headers_of_its_hop(name: str) -> None:
    value = "chunked" if name == "transfer-encoding" else "theirs"
    assert sent_down((name, value)) == [("x-envoy-upstream-service-time", "7"), ("server", "us")]


def test_a_response_loses_what_it_nominates_and_a_forged_time() -> None:
    given = [("connection", "X-Hop"), ("x-hop", "1"), ("X-Envoy-Upstream-Service-Time", "0")]
    assert sent_down(*given) == [("x-envoy-upstream-service-time", "7"), ("server", "us")]


def test_a_response_keeps_its_own_date_and_gets_one_without() -> None:
    own_date = to_client(answered(("Date", "then")), 0, b"us")
    assert [value for name, value in own_date if name == b"date"] == [b"then"]
    assert [name for name, _ in to_client(answered(), 0, b"us")].count(b"date") == 1


@pytest.mark.parametrize(
    ("status", "headers", "is_good"),
    [
        (200, [], True),
        (200, [("content-length", "5")], True),
        (200, [("transfer-encoding", "chunked")], True),
        (200, [("transfer-encoding", "chunked"), ("content-length", "5")], False),
        (304, [("content-length", "5")], True),
        (204, [], True),
        (204, [("content-length", "0")], True),
        (204, [("content-length", "5")], False),
        (204, [("transfer-encoding", "chunked")], False),
        (204, [("transfer-encoding", "chunked"), ("content-length", "0")], False),
    ],
)
def test_a_response_has_one_end_for_every_parser(status: int, headers: Headers, is_good: bool) -> None:
    assert is_framed_well(answered(*headers, status=status)) is is_good


def test_a_response_of_its_own_is_plain_text_with_a_length() -> None:
    made = own(200, b"hello", b"us")
    assert [each for each in made if each[0] != b"date"] == [
        (b"content-length", b"5"),
        (b"content-type", b"text/plain"),
        (b"server", b"us"),
    ]
    assert dict(made)[b"date"].endswith(b" GMT")


def test_an_empty_response_of_its_own_has_no_type() -> None:
    assert [name for name, _ in own(404, b"", b"us")] == [b"content-length", b"date", b"server"]


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_no_length(status: int) -> None:
    assert [name for name, _ in own(status, b"", b"us")] == [b"date", b"server"]


# The date


def test_a_date_is_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [784_111_777.0, 784_111_777.9, 784_111_778.0, 951_782_400.5]
    monkeypatch.setattr(time, "time", lambda: told.pop(0))
    assert [date() for _ in range(4)] == [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:38 GMT",
        b"Tue, 29 Feb 2000 00:00:00 GMT",
    ]


def test_a_date_is_formatted_once_a_second_and_only_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.25)
    first = date()
    assert date() is first
    monkeypatch.setattr(time, "time", lambda: 1_000_000_001.25)
    assert date() != first
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.25)
    assert date() == first
    assert date() is not first
