import signal

import pytest

from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput, UsageError
from agent.http.message import Request
from agent.proxies.server.check import Check
from agent.proxies.server.proxy import Server

WEB = "web=127.0.0.1:80"


def parsed(*arguments: str, listen: tuple[str, ...] = (WEB,), **more: object) -> Server:
    options = {"check": None, "notifies": False, "drain_signal": "SIGTERM", "has_config": False, **more}
    return Server.parse(arguments, listen, **options)  # type: ignore[arg-type]


def test_options_become_a_kind() -> None:
    kind = parsed("{fd:web}", check="web: GET /", notifies=True, drain_signal="SIGINT")
    assert (kind.arguments, kind.check, kind.notifies) == (("{fd:web}",), Check("GET", "/", "web"), True)
    assert kind.drain_signal is signal.SIGINT


def test_the_agent_leaves_a_descriptor_to_each_listener() -> None:
    assert parsed(listen=(WEB, "b=[::1]:81")).reserved_descriptors == 2


@pytest.mark.parametrize(
    ("arguments", "more", "why"),
    [
        (["{fd:wbe}"], {}, "there is no listener of that name"),
        (["{config}"], {}, "name one by --config"),
        ([], {"check": "b: GET /"}, "cannot use --check: there is no listener b; the names are: web"),
        ([], {"check": "health"}, "it is no request"),
        ([], {"listen": ()}, "cannot run a server without a listener"),
        ([], {"listen": (WEB, WEB)}, "another listener has the name web"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], more: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parsed(*arguments, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "needs"), [("{cert}", True), ("{key:a}", True), ("{cert:/a.pem}", False), ("x", False)]
)
def test_it_needs_certificates_only_by_name(word: str, *, needs: bool) -> None:
    assert parsed(word).needs_certificates is needs


@pytest.mark.parametrize(
    "other", [{"listen": ("web=127.0.0.1:81",)}, {"listen": ("b=127.0.0.1:80",)}, {"drain_signal": "SIGINT"}]
)
def test_what_a_process_is_started_with_makes_a_revision(other: dict[str, object]) -> None:
    assert parsed().identity == parsed(check="GET /", notifies=True).identity
    assert parsed().identity != parsed(**other).identity  # type: ignore[arg-type]
    assert parsed().identity != parsed("x").identity


def test_a_configuration_with_an_unknown_listener_is_bad_input() -> None:
    """The agent runs on with the last good one."""
    kind = parsed("-f", "{config}", has_config=True)
    with pytest.raises(BadInput, match=r"cannot use {fd:wbe}: there is no listener of that name"):
        kind.configuration("bind {fd:wbe}", "/etc/x.conf")
    assert kind.configuration("bind {fd:web}", "/etc/x.conf").name == "/etc/x.conf"


def test_pairs_of_the_directories_are_its_configuration() -> None:
    kind = parsed("{cert}", "{key}")
    pair = [Reference("/c/tls.crt", Role.CHAIN, "a"), Reference("/c/tls.key", Role.KEY, "a")]
    configuration = kind.configuration(kind.default_configuration(("", 0), ("", 0), pair, {}), "generated")
    assert {each.path for each in configuration.references} == {"/c/tls.crt", "/c/tls.key"}


def test_its_last_line_is_its_complaint() -> None:
    assert parsed().complaint("a\nb:  c \n\n", {}).text == "b: c"
    assert parsed().complaint(" \n", {}).text == "it printed no message"
    assert parsed().rejection("x" * 600, {}).text == "x" * 500 + "…"


async def test_nothing_is_known_of_it() -> None:
    kind = parsed()
    assert kind.version("") == ("unknown", False)
    assert kind.validate(1, None, kind.configuration("{}", "x")) == []
    assert kind.rehearse(1, None, kind.configuration("{}", "x")) == []
    answer = await kind.forwarder([]).answer(Request("GET", "/"))
    assert answer.status == 404
    assert kind.push_form == b""
