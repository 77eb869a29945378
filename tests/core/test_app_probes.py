"""The JSON of an application's probes: each accepted form, and each rejection names the path at fault."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.app_probes import GrpcProbe, HttpProbe, Probe, TcpProbe, parse
from agent.core.errors import UsageError

LIVE, READY = "/app-health/app/livez", "/app-health/app/readyz"


def one(probe: object, path: str = LIVE) -> Probe:
    return parse(json.dumps({path: probe}))[path]


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        (
            {"httpGet": {"path": "/api/actuator?x=1", "port": 9094, "scheme": "HTTP"}, "timeoutSeconds": 10},
            HttpProbe(9094, "/api/actuator?x=1", timeout=10),
        ),
        (
            {"httpGet": {"path": "/weblogic/ready", "port": 8888}, "timeoutSeconds": 2, "failureThreshold": 1},
            HttpProbe(8888, "/weblogic/ready", timeout=2),
        ),
        ({"httpGet": {"port": 1, "scheme": "HTTPS", "host": "localhost"}}, HttpProbe(1, tls=True)),
        ({"httpGet": {"port": 1, "scheme": "https", "path": "x y#z"}}, HttpProbe(1, "/x%20y", tls=True)),
        ({"httpGet": {"port": 1, "path": "/%C3%A9é"}}, HttpProbe(1, "/%C3%A9%C3%A9")),
        (
            {
                "httpGet": {
                    "port": 1,
                    "httpHeaders": [{"name": "Host", "value": "a.b"}, {"name": ":authority", "value": "c"}],
                }
            },
            HttpProbe(1, headers=(("host", "a.b"), ("host", "c"))),
        ),
        ({"httpGet": {"port": 1, "httpHeaders": None}, "timeoutSeconds": 0}, HttpProbe(1)),
        ({"tcpSocket": {"port": 16112}, "timeoutSeconds": 5}, TcpProbe(16112, 5)),
        ({"httpGet": None, "tcpSocket": {"port": 65535}}, TcpProbe(65535)),
        ({"grpc": {"port": 50051, "service": None}}, GrpcProbe(50051)),
        ({"grpc": {"port": 50051, "service": "a.B"}, "timeoutSeconds": 0.5}, GrpcProbe(50051, "a.B", 0.5)),
        ({"path": "/healthz", "port": 8080, "scheme": "HTTPS"}, HttpProbe(8080, "/healthz", tls=True, timeout=10)),
        ({"path": "", "port": 8080}, HttpProbe(8080, timeout=10)),
    ],
)
def test_each_form_is_parsed(written: object, parsed: Probe) -> None:
    assert one(written) == parsed


@pytest.mark.parametrize(
    "path",
    [
        LIVE,
        READY,
        "/app-health/my-app.x/startupz",
        "/app-lifecycle/app/prestopz",
        "/app-lifecycle/app/poststartz",
    ],
)
def test_each_path_is_accepted(path: str) -> None:
    assert one({"tcpSocket": {"port": 1}}, path) == TcpProbe(1)


def test_no_probes_are_accepted_as_an_injector_writes_them() -> None:
    assert parse("{}") == {}


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "/livez",
            "/app-health/livez",
            "/app-health//livez",
            "/app-health/a/b/livez",
            "/app-health/a/healthz",
        ),
        *("app-health/a/livez", "/app-health/a/livez/", "/app-health/a/prestopz", "/app-lifecycle/a/livez"),
    ],
)
def test_another_path_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"cannot use --app-probers: .* not of the form"):
        one({"tcpSocket": {"port": 1}}, path)


HTTP: dict[str, Any] = {"port": 1}
PORTS: list[object] = ["http", "80", 0, -1, 65536, 8.5, True, None, []]


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (None, "not an object"),
        ([], "not an object"),
        ({}, "none of"),
        ({"exec": {"command": ["true"]}}, "none of"),
        ({"httpGet": HTTP, "tcpSocket": {"port": 1}}, "httpGet and tcpSocket"),
        ({"httpGet": 8080}, "not an object"),
        ({"httpGet": {"path": "/"}}, "port None"),
        *(({"httpGet": {"port": port}}, "port") for port in PORTS),
        ({"tcpSocket": {"port": "db"}}, "port 'db'"),
        ({"grpc": {"port": "grpc"}}, "port 'grpc'"),
        ({"grpc": {"port": 1, "service": 2}}, "service"),
        ({"httpGet": {"port": 1, "scheme": "FTP"}}, "scheme 'FTP'"),
        ({"httpGet": {"port": 1, "scheme": 1}}, "scheme"),
        ({"httpGet": {"port": 1, "path": 1}}, "path that is not text"),
        *(({"httpGet": HTTP, "timeoutSeconds": each}, "timeoutSeconds") for each in (-1, "1", True, [1], 1e9)),
        ({"httpGet": {"port": 1, "httpHeaders": {}}}, "not a list"),
        ({"httpGet": {"port": 1, "httpHeaders": ["a: b"]}}, "not an object"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}, "a name"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"value": "x"}]}}, "a name"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": 1}]}}, "a name"),
        ({"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "x\r\nb: c"}]}}, "cannot carry"),
        ({"port": "http", "path": "/"}, "port 'http'"),
    ],
)
def test_an_unusable_probe_is_refused_and_its_path_is_named(probe: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(probe)
    assert str(caught.value).startswith("cannot use --app-probers: ")
    assert LIVE in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "[]", "null", '"x"', "{", "[" * 100_000, '{"a": NaN'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use --app-probers"):
        parse(text)


KEYS = [
    "httpGet",
    "tcpSocket",
    "grpc",
    "port",
    "path",
    "scheme",
    "httpHeaders",
    "name",
    "value",
    "timeoutSeconds",
    LIVE,
]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
        max_leaves=15,
    )
)
def test_any_json_is_parsed_or_refused(document: object) -> None:
    with suppress(UsageError):
        assert isinstance(parse(json.dumps({LIVE: document})), dict)
