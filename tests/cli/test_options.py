import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli.options import INPUTS, RUNNING, apply, option


def run(command: click.Command, *arguments: str, **environment: str) -> tuple[int, object]:
    """Run a command; return its exit code, and what it returned or said."""
    result = CliRunner(env=environment).invoke(command, arguments, standalone_mode=False)
    if isinstance(result.exception, click.UsageError):
        return 2, result.exception.format_message()
    assert result.exception is None
    return 0, result.return_value


def command(*decorators: object) -> click.Command:
    """A command with these options, which returns their values."""

    def values(**options: object) -> dict[str, object]:
        return options

    made: click.Command = click.command()(apply([*decorators])(values))  # type: ignore[list-item]
    return made


SPOON = command(option("--big-spoon", default="wood"), option("--hot/--not-hot", default=False))


@pytest.mark.parametrize(
    ("arguments", "environment", "values"),
    [
        ((), {}, {"big_spoon": "wood", "hot": False}),
        ((), {"AGENT_BIG_SPOON": "tin"}, {"big_spoon": "tin", "hot": False}),
        (("--big-spoon", "silver"), {"AGENT_BIG_SPOON": "tin"}, {"big_spoon": "silver", "hot": False}),
        ((), {"AGENT_HOT": "1"}, {"big_spoon": "wood", "hot": True}),
        (("--not-hot",), {"AGENT_HOT": "1"}, {"big_spoon": "wood", "hot": False}),
        ((), {"BIG_SPOON": "tin", "AGENT_NOT_HOT": "1"}, {"big_spoon": "wood", "hot": False}),
    ],
)
def test_an_option_is_read_from_its_variable_and_the_command_line_wins(
    arguments: tuple[str, ...], environment: dict[str, str], values: dict[str, object]
) -> None:
    assert run(SPOON, *arguments, **environment) == (0, values)


def test_help_shows_options_in_their_order_with_defaults() -> None:
    text = CliRunner().invoke(SPOON, ["--help"]).output
    assert text.index("--big-spoon") < text.index("wood") < text.index("--hot")


ALL = command(*INPUTS, *RUNNING)


def defaults() -> dict[str, object]:
    code, values = run(ALL)
    assert code == 0
    assert isinstance(values, dict)
    return values


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test says counts."""
    for name in [name for name in os.environ if name.startswith("AGENT_")]:
        monkeypatch.delenv(name)


def test_without_a_command_line_every_option_has_its_default() -> None:
    given = {name: value for name, value in defaults().items() if value not in {None, ()}}
    assert given == {
        "proxy_bin": "envoy", "proxy_kind": "auto", "listen": "0.0.0.0:15443", "forward": "127.0.0.1:8080",
        "proxy_core_dumps": False,
        "status_port": 15020, "http_actions": False, "metrics_merge": "on", "drain_time": 45, "drain_deadline": 600,
        "stop_deadline": 30, "drain_delay": 0, "min_drain": 0, "drain_direction": "all", "start_deadline": 30,
        "hold": 5, "restart": "always", "jitter": 0, "proof": True, "kubernetes_events": False, "low_memory": "wait",
        "on_certificate": "restart", "on_binary": "ignore", "survive": False, "wait": True,
        "log_format": "text", "log_level": "info",
    }  # fmt: skip


def test_a_path_is_not_looked_at() -> None:
    """Its file system may never answer."""
    _, values = run(ALL, "--config", "no/such\0file", "--certs", "/no", "--certs", "", AGENT_WATCH="/a:/b")
    assert isinstance(values, dict)
    assert values["config"] == Path("no/such\0file")
    assert (values["certs"], values["watch"]) == ((Path("/no"), Path()), (Path("/a"), Path("/b")))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("--allow-listen", ("1", "65535"), ("0", "65536", "x")),
        ("--status-port", ("0", "65535"), ("-1", "65536", "")),
        ("--give-up", ("1", "1000000"), ("0", "-1")),
        ("--metrics-merge", ("on", "off"), ("yes",)),
        ("--drain-direction", ("all", "inbound"), ("outbound",)),
        ("--restart", ("always", "on-failure", "never"), ("sometimes", "ALWAYS")),
        ("--low-memory", ("wait", "replace"), ("kill",)),
        ("--on-binary", ("ignore", "restart"), ("x",)),
        ("--log-format", ("text", "json"), ("xml",)),
        ("--log-level", ("debug", "info", "warning", "error"), ("fatal",)),
        ("--drain-time", ("1s", "500ms"), ("45", "0s", "-1s", "soon")),
        ("--drain-delay", ("0s", "1s"), ("0x", "-1s")),
        ("--min-drain", ("0s",), ("x",)),
        ("--jitter", ("0s", "auto", "5m"), ("never",)),
        ("--hold", ("1s",), ("0s",)),
        ("--replace-hung", ("5s",), ("x",)),
    ],
)
def test_a_value_outside_an_options_range_is_a_usage_error(
    name: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    assert [run(ALL, name, value)[0] for value in good] == [0] * len(good)
    for value in bad:
        code, text = run(ALL, name, value)
        assert (code, name in str(text)) == (2, True), value


@pytest.mark.parametrize("name", ["--allow-listen", "--certs", "--watch", "--status-name"])
def test_an_option_that_may_be_repeated_keeps_every_value(name: str) -> None:
    _, values = run(ALL, name, "1", name, "2")
    assert isinstance(values, dict)
    assert [str(each) for each in values[name[2:].replace("-", "_")]] == ["1", "2"]
