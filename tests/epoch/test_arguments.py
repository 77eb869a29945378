import shlex

import pytest

from agent.core.errors import UsageError
from agent.epoch.arguments import Answer, Arguments, hot_restart_version, parse
from agent.handoff.segment import HotRestartVersion


def read(line: str) -> Arguments:
    return parse(shlex.split(line), "app")


def test_without_anything_it_is_what_envoy_would_be() -> None:
    assert read("") == Arguments()
    assert (read("").drain_time, read("").parent_shutdown_time) == (600, 900)
    assert read("").socket_path == "@envoy_domain_socket"


def test_values_follow_a_space_or_an_equals_sign() -> None:
    line = "-c a.yaml --restart-epoch=3 --socket-mode 660 -l warn --drain-time-s 5 --disable-hot-restart"
    assert read(line) == Arguments(
        config_path="a.yaml",
        restart_epoch=3,
        socket_mode=0o660,
        log_level="warning",
        drain_time=5,
        disable_hot_restart=True,
        given=frozenset(
            {"config_path", "restart_epoch", "socket_mode", "log_level", "drain_time", "disable_hot_restart"}
        ),
    )


def test_a_value_may_look_like_a_flag_or_hold_an_equals_sign() -> None:
    assert read("--log-format '--%v=%v'").log_format == "--%v=%v"
    assert read("--config-yaml=a=b").config_yaml == "a=b"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--foo 1", "cannot use --foo: not supported by app"),
        ("--skip-hot-restart-parent-stats", "not supported by app"),
        ("serve", "cannot use serve: arguments without a flag are not supported by app"),
        ("--", "cannot use --: not supported"),
        ("--concurrency 2", "cannot use --concurrency 2: more than one worker is not supported by app"),
        ("--concurrency 0", "cannot use --concurrency 0: more than one"),
        ("-c", "cannot use --config-path: its value is missing"),
        ("-c a --config-path b", "cannot use --config-path twice"),
        ("--mode later", "cannot use --mode later: it is not one of serve, validate"),
        ("--base-id -1", "cannot use --base-id -1: it is not a number"),
        ("--base-id 4294967296", "it is not a number from 0 to"),
        ("--drain-time-s 1.5", "it is not a number"),
        ("--drain-time-s ٣", "it is not a number"),
        ("--socket-mode 999", "it is not a file mode"),
        ("--disable-hot-restart=yes", "it has no value"),
    ],
)
def test_nothing_is_ignored(line: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read(line)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--version", "app  version: 1.2.3"),
        ("--hot-restart-version", hot_restart_version()),
        ("--base-id 3 --hot-restart-version", hot_restart_version()),
    ],
)
def test_what_is_answered_at_once(line: str, text: str) -> None:
    with pytest.raises(Answer) as caught:
        parse(shlex.split(line), "app", "1.2.3")
    assert caught.value.text == text


def test_help_names_every_flag() -> None:
    with pytest.raises(Answer) as caught:
        read("-h")
    assert all(name in caught.value.text for name in ("--config-path", "--drain-strategy", "--version", "(-l)"))


def test_the_version_is_one_that_the_agent_takes() -> None:
    assert str(HotRestartVersion.parse(hot_restart_version())) == hot_restart_version()
