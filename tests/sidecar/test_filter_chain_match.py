"""The filter chain of a connection."""

import pytest

from agent.sidecar.client_hello import RAW, Hello
from agent.sidecar.filter_chain_match import FilterChainMatcher
from agent.sidecar.model import Match


def tls(name: str = "", *protocols: str) -> Hello:
    return Hello(is_tls=True, server_name=name, protocols=protocols)


def matching(*matches: Match, default: str | None = None) -> FilterChainMatcher[str]:
    return FilterChainMatcher([(match, str(number)) for number, match in enumerate(matches)], default)


NAMES = matching(
    Match(("a.example",)), Match(("*.example",)), Match(("*.deep.example",)), Match(("x.example", "y.example"))
)


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("a.example", "0"),
        ("b.example", "1"),
        ("b.a.example", "1"),
        ("b.deep.example", "2"),
        ("deep.example", "1"),
        ("y.example", "3"),
        ("example", None),
        ("", None),
    ],
)
def test_the_longest_name_wins(name: str, chain: str | None) -> None:
    assert NAMES.find(tls(name)) == chain


def test_a_chain_without_a_match_takes_everything() -> None:
    assert matching(Match()).find(RAW) == "0"
    assert matching(Match()).find(tls("a.example", "h2")) == "0"


def test_the_default_takes_what_nothing_matches() -> None:
    assert matching(Match(("a.example",)), default="default").find(RAW) == "default"


def test_the_transport_decides_after_the_name() -> None:
    chains = matching(Match(transport_protocol="tls"), Match(transport_protocol="raw_buffer"))
    assert (chains.find(tls()), chains.find(RAW)) == ("0", "1")


def test_a_named_transport_goes_before_none() -> None:
    chains = matching(Match(), Match(transport_protocol="tls"))
    assert (chains.find(tls()), chains.find(RAW)) == ("1", "0")


def test_the_clients_order_of_protocols_decides() -> None:
    chains = matching(Match(application_protocols=("h2",)), Match(application_protocols=("http/1.1",)), Match())
    assert chains.find(tls("", "http/1.1", "h2")) == "1"
    assert chains.find(tls("", "other")) == "2"


def test_what_a_name_has_chosen_a_protocol_does_not_undo() -> None:
    chains = matching(Match(("a.example",), application_protocols=("h2",)), Match())
    assert chains.find(tls("a.example", "http/1.1")) is None
    assert chains.find(tls("b.example", "http/1.1")) == "1"


def test_two_chains_that_say_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="two of its filter chains"):
        matching(Match(("a.example", "b.example")), Match(("b.example",)))


@pytest.mark.parametrize(
    ("match", "needs"),
    [
        (Match(), False),
        (Match(transport_protocol="raw_buffer"), False),
        (Match(transport_protocol="tls"), True),
        (Match(("a.example",)), True),
        (Match(application_protocols=("h2",)), True),
    ],
)
def test_clients_are_looked_at_only_where_it_matters(match: Match, needs: bool) -> None:
    assert matching(match).needs_hello is needs
