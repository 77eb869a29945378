"""Since when the disk and the service disagree: one moment, however often the bad content changes."""

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, KEY
from tests.system.status_pollers import overview

pytestmark = pytest.mark.sidecar


def reasons(bed: AgentFixture) -> list[str]:
    """Return why each file is refused."""
    return [each["reason"] for each in overview(bed)["refused"]]


def test_one_bad_content_after_another_is_one_disagreement(bed: AgentFixture) -> None:
    eventually(lambda: overview(bed)["out_of_sync_since"] is None, what="the service is in sync")
    (bed.certs / CHAIN).write_bytes(b"no certificate")
    eventually(lambda: reasons(bed) == ["unparsable"], what="the chain is refused")
    since = overview(bed)["out_of_sync_since"]
    assert since is not None
    pair, other = bed.mint.leaf(), bed.mint.leaf()
    (bed.certs / CHAIN).write_bytes(pair.chain_pem)
    (bed.certs / KEY).write_bytes(other.key_pem)
    eventually(lambda: reasons(bed) == ["mismatch"], what="the pair is refused")
    bed.config.write_text("static_resources: [")
    eventually(lambda: "configuration" in reasons(bed), what="the configuration is refused")
    (bed.certs / CHAIN).write_bytes(other.chain_pem)
    eventually(lambda: reasons(bed) == ["configuration"], what="the pair is good")
    assert overview(bed)["out_of_sync_since"] == since
    bed.bootstrap.write(bed.config)
    eventually(lambda: overview(bed)["out_of_sync_since"] is None, what="the service is in sync again")
