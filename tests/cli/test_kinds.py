"""The kind of a proxy follows from its program's name, or from --proxy-kind."""

import pytest

from agent.cli.kinds import kind_of
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.haproxy.proxy import HAProxy


@pytest.mark.parametrize(
    ("program", "kind", "expected"),
    [
        ("haproxy", "auto", HAProxy),
        ("/usr/sbin/haproxy-2.6", "auto", HAProxy),
        ("/opt/haproxy/envoy", "auto", Envoy),
        ("./wrapper", "auto", Envoy),
        ("./wrapper", "haproxy", HAProxy),
        ("haproxy", "envoy", Envoy),
    ],
)
def test_kinds(program: str, kind: str, expected: type) -> None:
    assert isinstance(kind_of({"proxy_bin": program, "proxy_kind": kind}, []), expected)


@pytest.mark.parametrize(("mode", "pushes"), [("restart", False), ("push", True), ("auto", True)])
def test_haproxy_pushes_if_it_is_asked_to(mode: str, pushes: bool) -> None:
    kind = kind_of({"proxy_bin": "haproxy", "on_certificate": mode}, ["-dR"])
    assert kind == HAProxy(("-dR",), pushes)
