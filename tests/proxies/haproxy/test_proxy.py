"""HAProxy's command line and its messages."""

import pytest

from agent.core.errors import BadInput, UsageError
from agent.proxies.haproxy.proxy import HAProxy

KIND = HAProxy()


@pytest.mark.parametrize("argument", ["-f", "-W", "-x", "-sf", "-c"])
def test_arguments_that_the_agent_passes_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot pass {argument} to haproxy"):
        HAProxy.parse([argument], pushes=False)


def test_others_are_kept_and_make_another_revision() -> None:
    assert HAProxy.parse(["-dR"], pushes=False).arguments == ("-dR",)
    assert HAProxy.parse(["-dR"], pushes=False).identity != KIND.identity


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: x", "HAProxy 2.6.12-1+deb12u4"),
        ("HAProxy version 3.2.0 2025/05/28", "HAProxy 3.2.0"),
    ],
)
def test_versions(output: str, version: str) -> None:
    assert KIND.version(output) == (version, False)


@pytest.mark.parametrize(
    ("output", "why"), [("nginx/1.22", "version of HAProxy"), ("HAProxy version 2.2.9 x", "2.4 or")]
)
def test_what_it_cannot_run_is_refused(output: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        KIND.version(output)


ALERTS = """\
[NOTICE]   (7) : haproxy version is 2.6.12-1+deb12u4
[ALERT]    (7) : config : parsing [/dev/fd/22:7] : 'bind :443' in section 'frontend' : unable to load '/dev/fd/9'.
[ALERT]    (7) : config : parsing [/dev/fd/22:9] : unable to open /run/2/files-0123456789abcdef/a.crt.
[ALERT]    (7) : config : Error(s) found in configuration file : /dev/fd/22
[ALERT]    (7) : config : Fatal errors found in configuration.
"""


def test_a_complaint_has_the_operators_names() -> None:
    found = KIND.complaint(ALERTS, {22: "/etc/h.cfg", 9: "/c/x.pem", 10: "/c/a.crt"})
    assert found.text == (
        "parsing [/etc/h.cfg:7] : 'bind :443' in section 'frontend' : unable to load '/c/x.pem'.; "
        "parsing [/etc/h.cfg:9] : unable to open /c/a.crt."
    )
    assert found.paths == {"/etc/h.cfg", "/c/x.pem", "/c/a.crt"}


@pytest.mark.parametrize(("output", "text"), [("", "it printed no message"), ("a\nlast words\n\n", "last words")])
def test_output_without_an_alert(output: str, text: str) -> None:
    assert KIND.complaint(output, {}).text == text


def test_a_long_message_is_cut() -> None:
    assert len(KIND.rejection("x" * 1000, {}).text) == 501


def test_it_validates_without_the_agents_part() -> None:
    found = KIND.configuration("global\n", "/etc/h.cfg")
    assert HAProxy(("-dR",)).validate(5, None, found) == ["-c", "-f", "/dev/fd/5", "-dR"]


def test_nothing_can_be_merged_over_its_configuration() -> None:
    with pytest.raises(BadInput, match=r"^cannot merge b over a"):
        KIND.merged("", "a", "", "b")
