import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.epoch.arguments import Arguments
from agent.handoff.socket_store import ListenAddress
from agent.http.message import Request
from agent.sidecar.admin_server import AdminServer
from agent.sidecar.config.bootstrap import read_tree
from agent.sidecar.model import Configuration, Tls
from agent.stats.snapshot import Snapshot
from tests.epoch.envoy_console import Page
from tests.sidecar.patches import MANAGER, bootstrap, patched, write_files

NOW = 1_900_000_000.0


@dataclass
class View:
    """The view of a server that does not change."""

    configuration: Configuration = field(default_factory=lambda: Configuration((), ()))
    arguments: Arguments = field(default_factory=Arguments)
    version: str = "sidecar/1"
    started_at: float = NOW - 60
    first_started_at: float = NOW - 3600
    word: str = "LIVE"
    listening: Sequence[tuple[str, Sequence[ListenAddress]]] = ()
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def state(self) -> str:
        return self.word

    def snapshot(self) -> Snapshot:
        return Snapshot({"cluster.a.upstream_cx_total": 3}, {"server.live": 1})

    def bound(self) -> Sequence[tuple[str, Sequence[ListenAddress]]]:
        return self.listening

    def waiting(self) -> Mapping[str, Sequence[str]]:
        return self.targets

    def filled(self, tls: Tls) -> Tls | None:
        return tls


@dataclass
class Actions:
    """Records the requested actions."""

    done: list[str] = field(default_factory=list)

    def drain_listeners(self, *, graceful: bool, inbound_only: bool, skip_exit: bool) -> None:
        self.done.append(f"drain {graceful} {inbound_only} {skip_exit}")

    def fail_health(self, failing: bool) -> None:
        self.done.append(f"fail {failing}")

    def quit(self) -> None:
        self.done.append("quit")


async def ask(
    target: str, method: str = "GET", view: View | None = None, actions: Actions | None = None, **headers: str
) -> Page:
    """Send one request to an admin server of its own."""
    console = AdminServer(view or View(), actions or Actions(), lambda: NOW)
    answer = await console.answer(Request(method, target, tuple(headers.items())))
    assert isinstance(answer.body, bytes)
    return Page(answer.status, dict(answer.headers)["content-type"], answer.body.decode())


@pytest.mark.parametrize(
    ("target", "done"),
    [
        ("/drain_listeners", "drain False False False"),
        ("/drain_listeners?graceful", "drain True False False"),
        ("/drain_listeners?inboundonly&graceful=1", "drain True True False"),
        ("/drain_listeners?skip_exit", "drain False False True"),
        ("/healthcheck/fail", "fail True"),
        ("/healthcheck/ok", "fail False"),
        ("/quitquitquit", "quit"),
    ],
)
async def test_what_changes_something_wants_post_and_no_other_origin(target: str, done: str) -> None:
    actions = Actions()
    for method in ("GET", "HEAD", "PUT"):
        answer = await ask(target, method, actions=actions)
        assert (answer.status, answer.body) == (405, f"Method {method} not allowed, POST required.")
    for origin in ("http://elsewhere", "null", "https://console:81"):
        assert (await ask(target, "POST", actions=actions, host="console", origin=origin)).status == 403
    assert actions.done == []
    assert (await ask(target, "POST", actions=actions, host="console", origin="http://console")).body == "OK\n"
    assert (await ask(target, "POST", actions=actions)).body == "OK\n"
    assert actions.done == [done, done]


async def test_the_admin_server_answers_only_allowed_paths() -> None:
    admin = {"allow_paths": [{"exact": "/ready"}, {"prefix": "/stats"}], "address": {"pipe": {"path": "/x"}}}
    view = View(read_tree({"admin": admin}, "x"))
    assert (await ask("/ready", view=view)).status == 200
    assert (await ask("/stats?filter=live", view=view)).status == 200
    refused = await ask("/ready?x", view=view)
    assert (refused.status, refused.body) == (403, "request to path /ready?x not allowed")
    assert (await ask("/quitquitquit", "POST", view=view)).status == 403


async def test_every_path_of_the_list_is_there_and_no_other() -> None:
    listed = (await ask("/help")).body
    paths = [line.split(":")[0].removesuffix(" (POST)").strip() for line in listed.splitlines()[1:] if line[2] == "/"]
    assert len(paths) == 15
    for path in paths:
        assert (await ask(path, "POST")).status == 200
    missing = await ask("/ready/")
    assert (missing.status, missing.body) == (404, f"invalid path. {listed}")


@pytest.mark.parametrize("word", ["LIVE", "DRAINING", "INITIALIZING", "PRE_INITIALIZING"])
async def test_the_state_is_shown_in_all_documents(word: str) -> None:
    view = View(word=word)
    assert (await ask("/ready", view=view)).body == f"{word}\n"
    told = (await ask("/server_info", view=view)).tree
    assert (told["state"], told["hot_restart_initializing"]) == (word, "INIT" in word)
    assert word in (await ask("/", view=view)).body


async def test_spans_are_those_of_this_epoch_and_of_the_chain() -> None:
    told = (await ask("/server_info")).tree
    assert (told["uptime_current_epoch"], told["uptime_all_epochs"]) == ("60s", "3600s")


async def test_the_page_shows_names_and_never_takes_them_for_html() -> None:
    view = View(listening=[("<b>", [ListenAddress("tcp://127.0.0.1:1")])])
    body = (await ask("/", view=view)).body
    assert "&lt;b&gt;" in body
    assert "<b>" not in body
    assert "<th>clusters</th><td>none</td>" in body


async def test_certificates_are_those_loaded_at_the_start(tmp_path: Path) -> None:
    write_files(tmp_path)
    console = AdminServer(View(read_tree(bootstrap(tmp_path), "x")), Actions(), lambda: NOW)
    before = await console.answer(Request("GET", "/certs"))
    write_files(tmp_path)
    (tmp_path / "ca").unlink()
    assert before == await console.answer(Request("GET", "/certs"))
    assert isinstance(before.body, bytes)
    told = json.loads(before.body)["certificates"]
    assert [(each["ca_cert"][0]["path"], each["cert_chain"][0]["path"]) for each in told] == [
        (str(tmp_path / "ca"), str(tmp_path / "chain"))
    ] * 2


def _dumped(told: dict[str, Any], part: str) -> dict[str, Any]:
    return next(each for each in told["configs"] if each["@type"].endswith(f".{part}ConfigDump"))


async def test_a_dump_names_no_private_key(tmp_path: Path) -> None:
    write_files(tmp_path)
    told = await ask("/config_dump", view=View(read_tree(bootstrap(tmp_path), "x")))
    assert str(tmp_path / "chain") in told.body
    assert str(tmp_path / "key") not in told.body
    assert told.body.count("[redacted]") == 4
    assert [each["cluster"]["name"] for each in _dumped(told.tree, "Clusters")["static_clusters"]] == [
        "dns",
        "original",
        "static",
    ]


async def test_a_dump_can_be_narrowed(tmp_path: Path) -> None:
    write_files(tmp_path)
    view = View(read_tree(bootstrap(tmp_path), "x"))
    some = (await ask("/config_dump?resource=static_listeners&name_regex=we.*", view=view)).tree["configs"]
    assert [each["listener"]["name"] for each in some] == ["web"]
    routes = (await ask("/config_dump?resource=static_route_configs", view=view)).tree["configs"]
    assert [each["route_config"]["name"] for each in routes] == ["local"]
    assert (await ask("/config_dump?resource=bootstrap", view=view)).status == 404
    assert (await ask("/config_dump?name_regex=(", view=view)).status == 400
    assert (await ask("/config_dump?mask=bootstrap", view=view)).status == 400


async def test_metadata_of_the_node_is_shown_unchanged(tmp_path: Path) -> None:
    write_files(tmp_path)
    tree = patched(bootstrap(tmp_path), "node.metadata", {"aB": {"private_key": "mine"}})
    told = (await ask("/server_info", view=View(read_tree(tree, "x")))).tree["node"]
    assert told == {
        "id": "node", "cluster": "test", "metadata": {"aB": {"private_key": "mine"}}, "user_agent_name": "sidecar"
    }  # fmt: skip


async def test_routes_of_the_gate_are_no_static_ones(tmp_path: Path) -> None:
    write_files(tmp_path)
    tree = patched(bootstrap(tmp_path), f"{MANAGER}.route_config", None)
    view = View(Configuration((), (), tree=tree))
    assert "static_route_configs" not in _dumped((await ask("/config_dump", view=view)).tree, "Routes")
