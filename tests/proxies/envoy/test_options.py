"""Envoy's arguments from the operator: what is merged, what is passed on, and what the agent keeps for itself."""

import pytest

from agent.core.errors import UsageError
from agent.proxies.envoy.options import Flags


def test_no_arguments_are_no_flags() -> None:
    assert Flags.parse([]) == Flags(None, None, None, None, ())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("--config-yaml", "config_yaml"),
        ("--log-format", "log_format"),
        ("--service-node", "service_node"),
        ("--service-cluster", "service_cluster"),
    ],
)
@pytest.mark.parametrize("value", ["x", "", "a=b", "--mode", "{admin: {}}\n", "ж"])
def test_a_flag_that_is_merged_has_its_value_in_either_form(name: str, field: str, value: str) -> None:
    expected = Flags(**{field: value})  # type: ignore[arg-type]
    assert Flags.parse([name, value]) == expected
    assert Flags.parse([f"{name}={value}"]) == expected


def test_the_last_value_of_a_flag_counts() -> None:
    assert Flags.parse(["--service-node", "a", "--service-node=b"]).service_node == "b"


def test_everything_else_is_passed_on_in_its_order() -> None:
    arguments = ["-l", "debug", "--service-node", "n", "--component-log-level", "upstream:trace", "--x=y", "", "word"]
    flags = Flags.parse(arguments)
    assert flags.rest == ("-l", "debug", "--component-log-level", "upstream:trace", "--x=y", "", "word")
    assert flags.service_node == "n"


def test_the_arguments_of_the_caller_stay_as_they_are() -> None:
    arguments = ["--service-node", "n", "-l", "debug"]
    Flags.parse(arguments)
    assert arguments == ["--service-node", "n", "-l", "debug"]


@pytest.mark.parametrize(
    "name", ["--config-yaml-x", "--log-formatted", "-service-node", "service-node", "--Service-Node"]
)
def test_a_flag_that_resembles_one_is_passed_on(name: str) -> None:
    assert Flags.parse([name, "x"]).rest == (name, "x")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("-c", "--config"),
        ("--config-path", "--config"),
        ("--restart-epoch", "epochs"),
        ("--base-id", "base id"),
        ("--base-id-path", "base id"),
        ("--use-dynamic-base-id", "base id"),
        ("--socket-path", "run directory"),
        ("--socket-mode", "run directory"),
        ("--drain-time-s", "--drain-time"),
        ("--parent-shutdown-time-s", "last connection"),
        ("--admin-address-path", "configuration"),
        ("--disable-hot-restart", "hot-restart"),
        ("--skip-hot-restart-on-no-parent", "parent"),
        ("--skip-hot-restart-parent-stats", "parent"),
        ("--hot-restart-version", "agent version"),
        ("--version", "agent version"),
        ("--mode", "agent check"),
        ("--", "hide"),
        ("--ignore_rest", "hide"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "{}=", "{}=7"])
def test_a_flag_that_the_agent_sets_itself_is_refused_with_the_reason(flag: str, words: str, form: str) -> None:
    with pytest.raises(UsageError) as refused:
        Flags.parse(["-l", "debug", form.format(flag), "7"])
    assert f"cannot pass {flag} to the proxy" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["--config-yaml", "--log-format", "--service-node", "--service-cluster"])
def test_a_flag_without_its_value_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} .*missing"):
        Flags.parse(["-l", "debug", name])


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [([], False), (["--drain-strategy", "gradual"], True), (["--drain-strategy=gradual"], True), (["--drain"], False)],
)
def test_whether_the_operator_chooses_how_a_drain_asks_clients_to_leave(arguments: list[str], chosen: bool) -> None:
    assert Flags.parse(arguments).has_drain_strategy is chosen
