"""What each option means, as the command line parses it."""

import os
import socket
from datetime import time
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.run import agent
from agent.cli.settings import inputs, running
from agent.core.app_probes import TcpProbe
from agent.core.errors import UsageError
from agent.core.policy import LowMemory, Restart
from agent.inputs.settings import Settings
from agent.metrics.application import Application

GIVEN = ("--certs", "/c", "--run-dir", "/run/x")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AGENT_") or name == "NOTIFY_SOCKET"]:
        monkeypatch.delenv(name)


def parsed(*arguments: str) -> click.Context:
    return agent.make_context("agent", [*arguments])


def settings(*arguments: str) -> Settings:
    context = parsed(*GIVEN, *arguments)
    return running(context.params, context.obj)


def of(made: object, path: str) -> Any:  # noqa: ANN401  # whatever is found there
    for name in path.split("."):
        made = getattr(made, name)
    return made


PROBERS = '{"/app-health/a/livez": {"tcpSocket": {"port": 1}}}'


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ((), "proxy", "envoy"),
        (("--proxy-bin", "/p"), "proxy", "/p"),
        ((), "certificates", (Path("/c"),)),
        (("--certs", "/d"), "certificates", (Path("/c"), Path("/d"))),
        ((), "config", None),
        (("--config", "e.yaml"), "config", Path("e.yaml")),
        (("--watch", "/w", "--watch", "v"), "watched", (Path("/w"), Path("v"))),
        ((), "listen", "tcp://0.0.0.0:15443"),
        (("--listen", "[::1]:443"), "listen", "tcp://[::1]:443"),
        ((), "forward", "tcp://127.0.0.1:8080"),
        (("--forward", "app:80"), "forward", "tcp://app:80"),
        ((), "run_directory", Path("/run/x")),
        ((), "user", None),
        ((), "core_dumps", False),
        (("--proxy-core-dumps",), "core_dumps", True),
        ((), "status_names", frozenset()),
        (("--status-name", "a", "--status-name", "b"), "status_names", frozenset({"a", "b"})),
        (("--allow-listen", "80", "--allow-listen", "443"), "allowed_ports", frozenset({80, 443})),
        ((), "restart_on_binary", False),
        (("--on-binary", "restart"), "restart_on_binary", True),
        ((), "inbound_only", False),
        (("--drain-direction", "inbound"), "inbound_only", True),
        ((), "survive", False),
        (("--survive",), "survive", True),
        ((), "window", None),
        (("--rotate-window", "22:00-06:30"), "window.begin", time(22, 0)),
        (("--rotate-window", "22:00-06:30"), "window.end", time(6, 30)),
        ((), "jitter", 0),
        (("--jitter", "90s"), "jitter", 90),
        (("--jitter", "auto"), "jitter", None),
        ((), "replace_hung", None),
        (("--replace-hung", "1m"), "replace_hung", 60),
        ((), "prove", True),
        (("--no-proof",), "prove", False),
        ((), "http_actions", False),
        (("--http-actions",), "http_actions", True),
        ((), "application", None),
        (("--app-metrics", "http://a:1/m"), "application", Application("a", 1, "/m", "a:1")),
        ((), "app_probes", {}),
        (("--app-probers", ""), "app_probes", {}),
        (("--app-probers", "{}"), "app_probes", {}),
        (("--app-probers", PROBERS), "app_probes", {"/app-health/a/livez": TcpProbe(1)}),
        ((), "app_address", None),
        (("--app-address", ""), "app_address", None),
        (("--app-address", "FD00::0:5"), "app_address", "fd00::5"),
        ((), "merge_metrics", True),
        (("--metrics-merge", "off"), "merge_metrics", False),
        ((), "kubernetes_events", False),
        (("--kubernetes-events",), "kubernetes_events", True),
        ((), "status_port", 15020),
        (("--status-port", "0"), "status_port", 0),
        (("--status-host", "192.0.2.1"), "status_host", "192.0.2.1"),
        ((), "policy.start_timeout", 30),
        (("--start-deadline", "5s"), "policy.start_timeout", 5),
        ((), "policy.drain_timeout", 600),
        (("--drain-deadline", "1h"), "policy.drain_timeout", 3600),
        ((), "policy.drain_patience", 45),
        (("--drain-time", "7s"), "policy.drain_patience", 7),
        ((), "policy.stop_timeout", 30),
        (("--stop-deadline", "8s"), "policy.stop_timeout", 8),
        ((), "policy.hold_timeout", 5),
        (("--hold", "9s"), "policy.hold_timeout", 9),
        ((), "policy.drain_delay", 0),
        (("--drain-delay", "3s"), "policy.drain_delay", 3),
        ((), "policy.min_drain", 0),
        (("--min-drain", "4s"), "policy.min_drain", 4),
        ((), "policy.restart", Restart.ALWAYS),
        (("--restart", "on-failure"), "policy.restart", Restart.ON_FAILURE),
        (("--restart", "never"), "policy.restart", Restart.NEVER),
        ((), "policy.low_memory", LowMemory.WAIT),
        (("--low-memory", "replace"), "policy.low_memory", LowMemory.REPLACE),
        ((), "policy.give_up", None),
        (("--give-up", "3"), "policy.give_up", 3),
        ((), "policy.wait", True),
        (("--no-wait",), "policy.wait", False),
    ],
)
def test_an_option_is_a_setting(arguments: tuple[str, ...], path: str, value: object) -> None:
    assert of(settings(*arguments), path) == value


def test_a_relative_run_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context = parsed("--certs", "/c", "--run-dir", "r")
    assert running(context.params, ()).run_directory == tmp_path / "r"


def test_without_a_run_directory_the_usual_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/of-the-service")
    context = parsed("--certs", "/c")
    assert running(context.params, ()).run_directory.is_absolute()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--listen", "here"), "here"),
        (("--forward", "127.0.0.1:99999"), "99999"),
        (("--proxy-user", "nobody-of-that-name"), "nobody-of-that-name"),
        (("--rotate-window", "now"), "now"),
        (("--app-metrics", "https://a/"), "https://a/"),
        (("--app-probers", '{"/app-health/a/livez": {}}'), "/app-health/a/livez"),
        (("--app-probers", PROBERS, "--status-port", "0"), "--status-port"),
        (("--app-address", "pod.local"), "pod.local"),
        (("--run-dir", "/" + "x" * 90), "--run-dir"),
        (("--", "--base-id", "3"), "base"),
    ],
)
def test_a_value_that_cannot_be_used_is_a_usage_error_that_names_it(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        settings(*arguments)


def test_arguments_of_the_proxy_and_the_drain_time_reach_its_command_line() -> None:
    kind = settings("--drain-time", "7s", "--", "--log-level", "debug").kind
    arguments = " ".join(kind.validate(9, None, kind.configuration("{}", "e.yaml", None, {})))
    assert "debug" in arguments


@pytest.mark.parametrize(("notified", "expected"), [(True, "127.0.0.1"), (False, "::")])
def test_the_status_listens_on_loopback_under_a_service_manager(
    notified: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    if notified:
        monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert settings().status_host == expected


def test_the_status_listens_on_ipv4_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert settings().status_host == "0.0.0.0"


def test_a_user_is_found_by_name() -> None:
    user = settings("--proxy-user", "root").user
    assert user is not None
    assert (user.uid, user.gid) == (0, 0)


# Commands that only read the files


def options(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {"proxy_bin": "p", "config": None, "certs": (Path("/c"),), "watch": ()}
    others = {"listen": ("a:1",), "forward": "b:2", "proxy_user": None, "config_override": None}
    return {**plain, **others, **changes}


@pytest.mark.parametrize(
    "given", [{"certs": (Path("/c"),)}, {"config": Path("/e"), "certs": ()}, {"config": Path("/e")}], ids=str
)
def test_a_configuration_or_certificates_must_be_given(given: dict[str, object]) -> None:
    made = inputs(options(**given), ())
    assert (made["listen"], made["forward"]) == ("tcp://a:1", "tcp://b:2")
    with pytest.raises(UsageError, match=r"--config.*--certs"):
        inputs(options(config=None, certs=()), ())


def test_a_configuration_may_be_data() -> None:
    made = inputs(options(document='{"node": {}}', certs=()), ())
    assert made["document"] == b'{"node": {}}'


def test_an_override_needs_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_IP", "10.0.0.1")
    made = inputs(options(config=Path("/e"), config_override=Path("/o")), ())
    assert (made["override"], made["override_values"]) == (Path("/o"), {"$(HOST_IP)": "10.0.0.1"})
    with pytest.raises(UsageError, match="cannot use --config-override without --config"):
        inputs(options(config_override=Path("/o")), ())


def test_what_an_override_is_filled_in_with_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_IP", '"x')
    assert inputs(options(config=Path("/e")), ())["override_values"] == {}
    with pytest.raises(UsageError, match="cannot use HOST_IP="):
        inputs(options(config=Path("/e"), config_override=Path("/o")), ())
