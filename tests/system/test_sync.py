"""Since when the disk and the service disagree: one moment, however often the bad content changes."""

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, KEY
from tests.system.status_pollers import overview

pytestmark = pytest.mark.sidecar


def reasons(instance: AgentFixture) -> list[str]:
    """Return why each file is refused."""
    return [each["reason"] for each in overview(instance)["refused"]]


def test_one_bad_content_after_another_is_one_disagreement(instance: AgentFixture) -> None:
    eventually(lambda: overview(instance)["out_of_sync_since"] is None, what="the service is in sync")
    (instance.certs / CHAIN).write_bytes(b"no certificate")
    eventually(lambda: reasons(instance) == ["unparsable"], what="the chain is refused")
    since = overview(instance)["out_of_sync_since"]
    assert since is not None
    pair, other = instance.mint.leaf(), instance.mint.leaf()
    (instance.certs / CHAIN).write_bytes(pair.chain_pem)
    (instance.certs / KEY).write_bytes(other.key_pem)
    eventually(lambda: reasons(instance) == ["mismatch"], what="the pair is refused")
    instance.config.write_text("static_resources: [")
    eventually(lambda: "configuration" in reasons(instance), what="the configuration is refused")
    (instance.certs / CHAIN).write_bytes(other.chain_pem)
    eventually(lambda: reasons(instance) == ["configuration"], what="the pair is good")
    assert overview(instance)["out_of_sync_since"] == since
    instance.bootstrap.write(instance.config)
    eventually(lambda: overview(instance)["out_of_sync_since"] is None, what="the service is in sync again")
