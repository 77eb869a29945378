"""What is supported only in part is logged once, by name."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.inputs import limits
from agent.inputs.finding_log import FindingLog
from agent.inputs.revisions import LoadedRevision
from agent.proxies.envoy.configuration import Configuration
from tests.pki import Authority
from tests.processes.fakes import Revisions

UDP = "static_resources: {listeners: [{address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}}]}"


def bodies(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the texts of the log."""
    return [record.getMessage() for record in caplog.records]


def test_a_udp_listener_and_a_protobuf_source_are_each_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = FindingLog(0.0)
    source = "dynamic_resources: {lds_config: {path_config_source: {path: /l.pb}}}"
    configuration = Configuration(f"{UDP}\n{source}", "/envoy.yaml")
    limits.report(configuration, log)
    limits.report(configuration, log)
    assert [text.split(",")[0] for text in bodies(caplog)] == [
        "UDP listeners are handed over by Envoy's means: some datagrams are lost in a rotation",
        "not part of a revision",
    ]


@pytest.fixture
def loaded() -> Iterator[LoadedRevision]:
    """A revision of five pairs."""
    authority, revisions = Authority.create("ca"), Revisions()
    contents: dict[str, bytes] = {}
    contexts = []
    for name in "abcde":
        leaf = authority.issue([f"{name}.test"])
        contents |= {f"/{name}.crt": leaf.chain_pem, f"/{name}.key": leaf.key_pem}
        contexts.append(f"{{certificate_chain: {{filename: /{name}.crt}}, private_key: {{filename: /{name}.key}}}}")
    yield revisions.load(f"contexts: [{', '.join(contexts)}]", contents)
    revisions.close()


def test_groups_that_cannot_be_pushed_are_named_once(loaded: LoadedRevision, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = FindingLog(0.0)
    limits.report_push(replace(loaded, pushable=frozenset({"/a.crt", "/a.key", "/b.crt"})), log)
    limits.report_push(replace(loaded, pushable=frozenset({"/a.crt", "/a.key", "/b.crt"})), log)
    end = "starts a new epoch: no push reaches the places where it is used"
    assert bodies(caplog) == [f"a change of /b.crt, /c.crt, /d.crt and 1 more {end}"]


def test_nothing_is_logged_where_all_can_be_pushed(loaded: LoadedRevision, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    limits.report_push(replace(loaded, pushable=frozenset(loaded.selection.files)), FindingLog(0.0))
    assert bodies(caplog) == []
