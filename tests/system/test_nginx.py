"""NGINX under the agent: certificates and configurations change, and processes die, without an effect on clients."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.conftest import INSTANCES
from tests.system.counts import count
from tests.system.loads import Loads, nothing_failed
from tests.system.nginxes import NginxFixture, nginx_binary
from tests.system.room import Room

pytestmark = [pytest.mark.skipif(nginx_binary() is None, reason="no nginx"), pytest.mark.quiet]
ROTATIONS = count("AGENT_ROTATIONS", short=4, long=100)
MakeNginx = Callable[..., NginxFixture]


@pytest.fixture
def make_nginx(room: Room, request: pytest.FixtureRequest) -> Iterator[MakeNginx]:
    """Create agent fixtures with NGINX; their agents are stopped, and must exit with 0, at the end."""
    instances: list[NginxFixture] = []
    binary = nginx_binary()
    assert binary is not None

    def make(name: str = "n", **fields: object) -> NginxFixture:
        instances.append(NginxFixture(room, name, binary, **{"proxy_args": [], **fields}))  # type: ignore[arg-type]
        return instances[-1]

    request.node.stash[INSTANCES] = instances  # type: ignore[misc]
    yield make
    with ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.stop)


@pytest.fixture
def unstarted(make_nginx: MakeNginx) -> NginxFixture:
    """An agent fixture that the test changes before its agent starts."""
    return make_nginx()


@pytest.fixture
def nginx(unstarted: NginxFixture) -> NginxFixture:
    """An agent fixture whose agent is ready and serves."""
    unstarted.start()
    return unstarted


def test_rotations_under_load_fail_nothing(nginx: NginxFixture, loads: Loads) -> None:
    loads.retried(nginx.tls, nginx.plain)
    loads.more(20)
    for _ in range(ROTATIONS):
        nginx.rotate()
        nginx.served()
    loads.more(20)
    nothing_failed(loads.finish(at_least=100))
    nginx.settled()
