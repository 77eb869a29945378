"""Our admin server beside a real Envoy's, with one configuration; permitted differences are listed here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.epoch.arguments import parse
from agent.handoff.socket_store import ListenAddress
from agent.sidecar.config.bootstrap import read
from tests.epoch.envoy_console import EnvoyConsole, Page, envoy_console
from tests.proxies.envoy.envoys import wants_envoy
from tests.sidecar.patches import bootstrap, write_files
from tests.sidecar.test_admin_server import View, ask

pytestmark = wants_envoy

ARGUMENTS = ("--drain-time-s", "45", "--drain-strategy", "immediate", "--service-node", "me", "--service-cluster", "us")
SAME = ("/ready", "/hot_restart_version", "/listeners", "/listeners?format=json", "/init_dump")
NODE_OF_ENVOY = {
    "client_features", "dynamic_parameters", "extensions", "listening_addresses", "user_agent_build_version"
}  # fmt: skip
OPTIONS_OF_ENVOY = {  # flags that the sidecar does not support
    "allow_unknown_static_fields", "base_id_path", "component_log_level", "cpuset_threads", "disabled_extensions",
    "enable_core_dump", "enable_fine_grain_logging", "enable_mutex_tracing", "file_flush_interval",
    "file_flush_min_size", "ignore_unknown_dynamic_fields", "local_address_ip_version", "log_format_escaped",
    "log_stacktrace_single_entry", "reject_unknown_dynamic_fields", "service_zone", "skip_deprecated_logs",
    "skip_hot_restart_on_no_parent", "skip_hot_restart_parent_stats", "stats_tag", "use_dynamic_base_id",
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("console")
    write_files(made)
    return made


@pytest.fixture(scope="module")
def real(directory: Path) -> Iterator[EnvoyConsole]:
    with envoy_console(directory, bootstrap(directory), *ARGUMENTS) as console:
        yield console


@pytest.fixture
def view(real: EnvoyConsole, directory: Path) -> View:
    """Return the view of a server with the same state as the real one."""
    path = str(directory / "bootstrap.json")
    arguments = parse(
        ["-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warning", *ARGUMENTS], "sidecar"
    )
    lines = [line.split("::", 1) for line in real.ask("/listeners").body.splitlines()]
    places = [(name, [ListenAddress(f"{'unix' if each[0] == '/' else 'tcp'}://{each}")]) for name, each in lines]
    return View(read(path, None, node="me", cluster="us"), arguments, listening=places)


@pytest.mark.parametrize("target", SAME)
async def test_the_same_answer(real: EnvoyConsole, view: View, target: str) -> None:
    assert await ask(target, view=view) == real.ask(target)


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("/", "GET"),
        ("/help", "GET"),
        ("/nothing", "GET"),
        ("/ready/", "GET"),
        ("/certs", "GET"),
        ("/certs", "POST"),
        ("/stats", "PUT"),
        ("/stats?format=json", "GET"),
        ("/stats?filter=(", "GET"),
        ("/stats/prometheus", "GET"),
        ("/server_info", "GET"),
        ("/config_dump", "GET"),
        ("/config_dump?resource=nothing", "GET"),
        ("/config_dump?name_regex=(", "GET"),
        ("/quitquitquit", "GET"),
        ("/drain_listeners?graceful", "PUT"),
        ("/healthcheck/fail", "DELETE"),
    ],
)
async def test_the_same_kind_of_answer(real: EnvoyConsole, view: View, target: str, method: str) -> None:
    ours, theirs = await ask(target, method, view=view), real.ask(target, method)
    assert (ours.status, ours.content_type) == (theirs.status, theirs.content_type)


async def test_the_server_differs_in_its_name_and_in_flags_it_does_not_take(real: EnvoyConsole, view: View) -> None:
    ours, theirs = (await ask("/server_info", view=view)).tree, real.ask("/server_info").tree
    assert list(ours) == list(theirs)
    for different in ("version", "uptime_current_epoch", "uptime_all_epochs", "node", "command_line_options"):
        mine, other = ours.pop(different), theirs.pop(different)
        if different == "node":
            assert mine == {
                **{name: value for name, value in other.items() if name not in NODE_OF_ENVOY},
                "user_agent_name": "sidecar",
            }
        if different == "command_line_options":
            assert mine == {name: value for name, value in other.items() if name not in OPTIONS_OF_ENVOY}
    assert ours == theirs


async def test_certificates_come_in_the_order_of_the_configuration(real: EnvoyConsole, view: View) -> None:
    ours, theirs = (await ask("/certs", view=view)).tree["certificates"], real.ask("/certs").tree["certificates"]
    assert _without(ours, "days_until_expiration") == _without(theirs, "days_until_expiration")


async def test_a_dump_differs_in_its_node_and_its_dates(real: EnvoyConsole, view: View) -> None:
    ours = _without((await ask("/config_dump", view=view)).tree, "last_updated", "node")
    assert ours == _without(real.ask("/config_dump").tree, "last_updated", "node")


@pytest.mark.parametrize("resource", ["static_listeners", "static_clusters", "static_route_configs"])
@pytest.mark.parametrize("pattern", [".*[ab].*", "dns|web", "", "st", "x"])
async def test_a_part_of_a_dump_is_the_same(real: EnvoyConsole, view: View, resource: str, pattern: str) -> None:
    target = f"/config_dump?resource={resource}&name_regex={pattern}"
    ours = _without((await ask(target, view=view)).tree, "last_updated")
    assert ours == _without(real.ask(target).tree, "last_updated")


def _without(tree: Any, *names: str) -> Any:  # noqa: ANN401  # any JSON
    """Return a tree in which these members are empty everywhere, and members that Envoy omits are not removed."""
    if isinstance(tree, list):
        return [_without(each, *names) for each in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: None if name in names else _without(each, *names) for name, each in tree.items()}


def test_pages_are_compared_as_a_whole() -> None:
    assert Page(200, "a", json.dumps({})) != Page(200, "b", json.dumps({}))
