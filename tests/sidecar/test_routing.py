"""From an authority and a path to a route."""

import pytest

from agent.sidecar.model import Route, VirtualHost
from agent.sidecar.routing import Routing


def routing(*domains: str) -> Routing:
    return Routing([VirtualHost(domain, (domain,), (Route("/", domain),)) for domain in domains])


def found(table: Routing, authority: str) -> object:
    route = table.find(authority, "/x")
    return route and route.action


@pytest.mark.parametrize(
    ("authority", "domain"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("b.example", "*.example"),
        ("b.deep.example", "*.deep.example"),
        ("app.other", "app.*"),
        ("app.example", "*.example"),
        ("else", "*"),
        ("a.example:80", "*"),
        ("", "*"),
    ],
)
def test_exact_then_the_longest_suffix_then_a_prefix_then_any(authority: str, domain: str) -> None:
    assert found(routing("*", "app.*", "*.example", "*.deep.example", "a.example"), authority) == domain


def test_a_star_is_not_empty() -> None:
    assert found(routing("*.example", "app.*"), ".example") is None
    assert found(routing("*.example", "app.*"), "app.") is None


def test_the_first_prefix_that_fits_and_not_the_query() -> None:
    table = Routing([VirtualHost("v", ("*",), (Route("/a", "one"), Route("/ab", "two"), Route("/c?d", "three")))])
    actions = [
        route and route.action for route in (table.find("h", path) for path in ("/ab", "/a?x", "/b?/a", "/c?d", "*"))
    ]
    assert actions == ["one", "one", None, None, None]


def test_one_domain_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two virtual hosts"):
        routing("a.example", "A.example")
