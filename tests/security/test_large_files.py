"""A file of any size on disk does not keep the agent from answering other requests."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import live
from tests.system.conftest import MakeInstance
from tests.system.hostile_clients import Waits, bounded
from tests.system.layouts import CHAIN, KEY

pytestmark = [pytest.mark.quiet, pytest.mark.envoy]
MIB = 1 << 20


def authorities(instance: AgentFixture) -> None:
    one = (instance.certs / CHAIN).read_bytes()
    (instance.certs / "ca.crt").write_bytes(one * (15 * MIB // len(one)))


def keys(instance: AgentFixture) -> None:
    (instance.certs / KEY).write_bytes(b"-----BEGIN PRIVATE KEY-----\n" * (15 * MIB // 28))


def listeners(instance: AgentFixture) -> None:
    """Return listeners with a name that no proxy accepts: only the agent is tested."""
    one = "{{name: l{0}, address: {{socket_address: {{address: 127.0.0.1, port_value: {0}}}}}, filter_chains: [{{}}]}}"
    many = ",\n  ".join(one.format(number) for number in range(1024, 11024))
    instance.config.write_text(f"static_resources: {{listeners_of_nobody: [\n  {many}\n]}}\n")


def aliases(instance: AgentFixture) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    instance.config.write_text("\n".join(["l0: &l0 [x, x]", *levels]))


def files(instance: AgentFixture) -> None:
    for number in range(5000):
        (instance.certs / f"file-{number}").write_bytes(b"x")


@pytest.mark.parametrize(
    "grow", [listeners, *(pytest.param(each, marks=pytest.mark.long) for each in (authorities, keys, aliases, files))]
)
def test_the_loop_turns_whatever_there_is_to_judge(
    make_instance: MakeInstance, grow: Callable[[AgentFixture], None]
) -> None:
    """Compared with an idle agent at the same moments: its loop does not share an interpreter."""
    instance, idle = make_instance("b"), make_instance("idle")
    for one in (instance, idle):
        one.start()
    put = threading.Thread(target=grow, args=(instance,))
    put.start()
    waits, end = Waits([], []), time.monotonic() + 6
    while time.monotonic() < end or put.is_alive():
        waits.ours.append(live(instance.status))
        waits.honest.append(live(idle.status))
        time.sleep(0.005)
    put.join()
    bounded(waits, patience=2)
