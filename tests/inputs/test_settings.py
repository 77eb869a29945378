from pathlib import Path

import pytest

from agent.inputs.settings import Settings
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy


def settings(certificates: tuple[Path, ...], watched: tuple[Path, ...]) -> Settings:
    kind, place = Envoy(Flags(), 1.0), Path("/run/agent")
    return Settings("envoy", kind, certificates, None, watched, place, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2")


@pytest.mark.parametrize(
    ("certificates", "watched", "scopes"),
    [
        ((), (), ()),
        ((Path("/c"),), (), (Path("/c"),)),
        ((), (Path("/w"),), (Path("/w"),)),
        ((Path("/b"), Path("/a")), (Path("/w"),), (Path("/b"), Path("/a"), Path("/w"))),
    ],
)
def test_certificate_directories_and_watched_paths_are_in_scope(
    certificates: tuple[Path, ...], watched: tuple[Path, ...], scopes: tuple[Path, ...]
) -> None:
    assert settings(certificates, watched).scopes == scopes


def test_by_default_a_change_serves_at_once_and_is_verified_and_nothing_is_exposed() -> None:
    plain = settings((), ())
    assert (plain.window, plain.jitter, plain.prove) == (None, 0.0, True)
    assert (plain.status_port, plain.status_host, plain.http_actions) == (0, "127.0.0.1", False)
    assert (plain.restart_on_binary, plain.survive, plain.inbound_only, plain.core_dumps) == (False,) * 4
    assert (plain.replace_hung, plain.user, plain.application) == (None,) * 3
    assert (plain.merge_metrics, plain.kubernetes_events) == (True, False)
    assert not plain.allowed_ports
    assert not plain.status_names
    assert (plain.settle_timeout, plain.alarm_timeout, plain.sync_interval) == (1.0, 2.0, 0.5)
