"""An agent that pushes in another way than the one before it, or not at all, replaces the epoch at the next change."""

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.test_push import pushed

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize("after", [["--on-certificate", "restart"], ["--push-drain", "off"]])
def test_an_epoch_takes_no_pushes_of_another_form(after: list[str], unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--survive", "--on-certificate", "push", "--push-drain", "2s"]
    instance.start()
    pushed(instance)
    instance.served()
    before = instance.serving()
    instance.kill_agent()
    instance.more_flags += after
    instance.launch()
    instance.ready()
    assert instance.serving().pid == before.pid
    instance.rotate()
    instance.served()
    eventually(lambda: instance.serving().number == before.number + 1, what="a new epoch serves")
    assert len(instance.journal.named("push.started")) == 1, "none was tried after the first agent's"
