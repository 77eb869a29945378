"""Pushes into an Envoy whose counters the operator hides."""

import pytest
import yaml

from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import authority
from tests.system.eventually import eventually
from tests.system.refused import REFUSED
from tests.system.test_bad_input import put, serials, shown
from tests.system.test_pinned import NAMES, pinned, renewed, with_pairs

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize("drain", ["2s", "off"])
def test_what_only_the_proxy_refuses_is_named_without_counters(drain: str, unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--on-certificate", "push", "--push-drain", drain]
    hidden = {"stats_config": {"stats_matcher": {"reject_all": True}}}
    instance.proxy_args += ["--config-yaml", yaml.safe_dump(hidden)]
    old = with_pairs(instance)
    new = renewed(["a.test", "c.test"])
    put(instance, {"b.test": REFUSED["short RSA"](authority(), "b.test"), **new})
    wanted = serials(dict(old)) | serials(new)
    eventually(lambda: shown(instance, NAMES) == wanted, what="the others are pushed")
    assert len(eventually(lambda: pinned(instance), what="the pair is named")) == 1
    assert len(instance.journal.named("epoch.starting")) == 1
