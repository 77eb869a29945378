"""Variables that look like the agent's and are none."""

import pytest
from click.testing import CliRunner

from agent import __version__
from agent.cli.environment import drop_service_links, unknown
from agent.cli.run import agent


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("AGENT_DRAIN_TIM", "AGENT_DRAIN_TIME"),
        ("AGENT_CERT", "AGENT_CERTS"),
        ("AGENT_STATUS_PORTS", "AGENT_STATUS_PORT"),
        ("AGENT_QQQQ", "agent --help"),
    ],
)
def test_a_variable_that_sets_nothing_is_named_with_the_closest_one(name: str, hint: str) -> None:
    (message,) = unknown({name: "1", "HOME": "/", "AGENT_CERTS": "/c", "agent_certs": "x"}, agent)
    assert message.startswith(f"{name} sets no option")
    assert hint in message


def test_every_option_and_what_an_upgrade_passes_on_are_known() -> None:
    variables = {str(parameter.envvar): "1" for parameter in agent.params if parameter.envvar}
    assert len(variables) > 30
    assert unknown({**variables, "AGENT_TRIAL": "1", "AGENT_INHERITANCE": "{}"}, agent) == []


LINKS = {
    "AGENT_STATUS_SERVICE_HOST": "10.0.0.1",
    "AGENT_STATUS_SERVICE_PORT": "80",
    "AGENT_STATUS_SERVICE_PORT_HTTP_WEB": "80",
    "AGENT_STATUS_PORT_80_TCP": "tcp://10.0.0.1:80",
    "AGENT_STATUS_PORT_80_TCP_PROTO": "tcp",
    "AGENT_STATUS_PORT_80_TCP_PORT": "80",
    "AGENT_STATUS_PORT_80_TCP_ADDR": "10.0.0.1",
    "AGENT_PORT": "tcp://10.0.0.1:443",
}


def test_service_links_are_not_taken_for_misspelled_options() -> None:
    assert unknown(LINKS, agent) == []


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://[fd00::1]:53", "sctp://10.0.0.1:9"])
def test_a_service_link_with_the_name_of_an_option_is_dropped_and_named(value: str) -> None:
    environment = {**LINKS, "AGENT_STATUS_PORT": value, "AGENT_CERTS": "/c"}
    (message,) = drop_service_links(environment, agent)
    assert f"AGENT_STATUS_PORT={value}" in message
    assert "enableServiceLinks: false" in message
    assert environment == {**LINKS, "AGENT_CERTS": "/c"}


@pytest.mark.parametrize("value", ["15020", "tcp://", "http://10.0.0.1:80", "tcp://10.0.0.1"])
def test_any_other_value_of_an_option_stays(value: str) -> None:
    environment = {"AGENT_STATUS_PORT": value}
    assert drop_service_links(environment, agent) == []
    assert environment == {"AGENT_STATUS_PORT": value}


def test_a_command_runs_beside_a_service_of_the_options_name() -> None:
    shown = CliRunner().invoke(agent, ["completion", "bash"], env={"AGENT_STATUS_PORT": "tcp://10.0.0.1:80"})
    assert shown.exit_code == 0
    assert "_AGENT_COMPLETE" in shown.output


def test_the_version_is_an_option_too() -> None:
    shown = CliRunner().invoke(agent, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"agent {__version__}\n")
