"""A file of any size on disk does not keep the agent from answering other requests."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import live
from tests.system.conftest import MakeBed
from tests.system.hostile_clients import Waits, bounded
from tests.system.layouts import CHAIN, KEY

pytestmark = [pytest.mark.quiet, pytest.mark.envoy]
MIB = 1 << 20


def authorities(bed: AgentFixture) -> None:
    one = (bed.certs / CHAIN).read_bytes()
    (bed.certs / "ca.crt").write_bytes(one * (15 * MIB // len(one)))


def keys(bed: AgentFixture) -> None:
    (bed.certs / KEY).write_bytes(b"-----BEGIN PRIVATE KEY-----\n" * (15 * MIB // 28))


def listeners(bed: AgentFixture) -> None:
    """Return listeners with a name that no proxy accepts: only the agent is tested."""
    one = "{{name: l{0}, address: {{socket_address: {{address: 127.0.0.1, port_value: {0}}}}}, filter_chains: [{{}}]}}"
    many = ",\n  ".join(one.format(number) for number in range(1024, 11024))
    bed.config.write_text(f"static_resources: {{listeners_of_nobody: [\n  {many}\n]}}\n")


def aliases(bed: AgentFixture) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    bed.config.write_text("\n".join(["l0: &l0 [x, x]", *levels]))


def files(bed: AgentFixture) -> None:
    for number in range(5000):
        (bed.certs / f"file-{number}").write_bytes(b"x")


@pytest.mark.parametrize(
    "grow", [listeners, *(pytest.param(each, marks=pytest.mark.long) for each in (authorities, keys, aliases, files))]
)
def test_the_loop_turns_whatever_there_is_to_judge(make_bed: MakeBed, grow: Callable[[AgentFixture], None]) -> None:
    """Compared with an idle agent at the same moments: its loop does not share an interpreter."""
    bed, idle = make_bed("b"), make_bed("idle")
    for one in (bed, idle):
        one.start()
    put = threading.Thread(target=grow, args=(bed,))
    put.start()
    waits, end = Waits([], []), time.monotonic() + 6
    while time.monotonic() < end or put.is_alive():
        waits.ours.append(live(bed.status))
        waits.honest.append(live(idle.status))
        time.sleep(0.005)
    put.join()
    bounded(waits, patience=2)
