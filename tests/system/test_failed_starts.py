"""The reason of a failed start carries what the proxy itself reports: in the log, status, history and readiness."""

import pytest

from tests.cli.agents import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import body_of
from tests.system.bootstrap import http, listener
from tests.system.eventually import eventually
from tests.system.status_pollers import ask, overview
from tests.system.test_history import history

NOWHERE = "192.0.2.1"  # TEST-NET-1, RFC 5737: no interface has it
WORDS = {"envoy": f"cannot bind '{NOWHERE}:", "sidecar": f"cannot listen on tcp://{NOWHERE}:"}


def add_unusable_listener(instance: AgentFixture) -> None:
    """Configure a listener at an address of another machine, which every proxy accepts until it binds."""
    chain = {"filters": [http("never\n")]}
    instance.bootstrap.more = [listener("lost", NOWHERE, instance.room.port(), [chain])]
    instance.bootstrap.write(instance.config)


def reasons(instance: AgentFixture) -> list[str]:
    """The reasons of the failed attempts, newest first."""
    return [str(each["reason"]) for each in history(instance) if each["outcome"] == "failed"]


@pytest.mark.sidecar
def test_while_an_epoch_serves(instance: AgentFixture, proxy_kind: str) -> None:
    serving = instance.serving()
    add_unusable_listener(instance)
    reason = eventually(lambda: reasons(instance), every=0.2, what="the start failed")[0]
    assert f"exited with 1: {proxy_kind} reports: {WORDS[proxy_kind]}" in reason
    assert reason.endswith("Cannot assign requested address")
    assert reason in " ".join(agent("status", "--run-dir", instance.run_dir).out.split())
    assert any(WORDS[proxy_kind] in entry.text for entry in instance.journal.complaints())
    assert (instance.serving(), body_of(instance.plain)) == (serving, b"ok\n")
    instance.bootstrap.more = []
    instance.bootstrap.write(instance.config)
    eventually(lambda: overview(instance)["out_of_sync_since"] is None, what="what serves is on disk again")
    assert instance.serving() == serving, "it was never replaced"


def test_before_the_first_epoch_serves(unstarted: AgentFixture, proxy_kind: str) -> None:
    unstarted.prepare()
    add_unusable_listener(unstarted)
    unstarted.launch()
    reason = eventually(lambda: ask(unstarted, "/healthz/ready").text if reasons(unstarted) else "", what="it failed")
    assert WORDS[proxy_kind] in reason
    unstarted.bootstrap.more = []
    unstarted.bootstrap.write(unstarted.config)
    eventually(lambda: ask(unstarted, "/healthz/ready").status == 200, what="it serves")
