"""One secret's polls: their document, acknowledgement and refusal, and a control plane that is away."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.sidecar.model import SecretSource
from agent.sidecar.sds import Subscription
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.secret_plane import NOTHING_NEW, SECRET, plane, raw, secret_of
from tests.sidecar.wires import counted
from tests.system.eventually import PATIENCE

SOURCE = secret_of("s")


async def apply(body: bytes) -> str:
    """Take the body for the version; refuse one that is bad."""
    if body.startswith(b"bad"):
        raise BadInput(f"cannot use secret s: {body.decode()}")
    return body.decode()


class Stand:
    """A subscription without what it keeps current."""

    def __init__(self, path: Path, source: SecretSource = SOURCE) -> None:
        self.stats = Writer.private()
        self.it = Subscription(source, path, ("node", "group"), self.stats, apply)

    def counted(self) -> dict[str, int]:
        return counted(self.stats, self.it.scope)


@asynccontextmanager
async def subscribed(path: Path, **intervals: float) -> AsyncIterator[tuple[Stand, "asyncio.Task[None]"]]:
    """Subscribe; yield the stand and the wait for the first response."""
    stand = Stand(path, secret_of("s", **intervals))
    first = asyncio.ensure_future(stand.it.first())
    try:
        yield stand, first
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await stand.it.close()


async def test_a_poll_names_the_node_and_one_secret(tmp_path: Path) -> None:
    async with plane(tmp_path) as control, subscribed(control.path):
        poll = await control.poll("s")
    assert poll.asked["node"] == {"id": "node", "cluster": "group", "user_agent_name": "sidecar"}
    assert (poll.asked["resource_names"], poll.asked["type_url"]) == (["s"], SECRET)
    assert "version_info" not in poll.asked


async def test_the_next_poll_acknowledges_and_the_start_goes_on(tmp_path: Path) -> None:
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, first):
        await control.poll("s")
        assert (stand.it.version, first.done()) == ("", False)
        assert (await control.send("s", raw(b"1"))).version == "1"
        await first
        assert (await control.send("s", raw(b"2"))).version == stand.it.version == "2"
        assert stand.counted() == {"update_attempt": 3, "update_success": 2}


async def test_a_refusal_has_the_version_of_before_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, first):
        assert (await control.send("s", raw(b"bad 1"))).version == ""
        await first  # as in Envoy, the start does not wait for a good one
        await control.send("s", raw(b"2"))
        assert (await control.send("s", raw(b"bad 3"))).version == "2"
        assert stand.counted() == {"update_attempt": 4, "update_success": 1, "update_rejected": 2}
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warned == [f"cannot use secret s: bad {number}; what was in use stays in use" for number in (1, 3)]


async def test_nothing_new_is_no_response(tmp_path: Path) -> None:
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, first):
        assert (await control.send("s", NOTHING_NEW)).version == ""
        assert not first.done()
        assert stand.counted() == {"update_attempt": 2}


async def test_an_error_is_a_failure_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, first):
        for _ in range(3):
            await control.send("s", raw(b"1", 500))
        assert not first.done()
        assert stand.counted() == {"update_attempt": 4, "update_failure": 3}
        assert caplog.text.count("cannot fetch secret s: it answers with status 500; trying again every 0.01s") == 1
        await control.send("s", NOTHING_NEW)
        await control.send("s", raw(b"", 503))
        assert caplog.text.count("cannot fetch secret s") == 2


@pytest.mark.usefixtures("leaps")
async def test_a_control_plane_that_is_away_is_polled_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with subscribed(tmp_path / "nobody", refresh_delay=0.5) as (stand, first):
        await asyncio.sleep(1000.1)
        assert stand.counted() == {"update_attempt": 2001, "update_failure": 2001}
        assert not first.done()
    assert caplog.text.count("cannot fetch secret s") == 1


async def test_it_is_there_again_after_an_absence(tmp_path: Path) -> None:
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, _):
        await control.send("s", raw(b"1"))
        await control.close()
        while stand.counted().get("update_failure", 0) < 3:  # noqa: ASYNC110  # shared memory sends no event
            await asyncio.sleep(0)
        await control.open()
        assert (await control.poll("s")).version == "1"
        assert (await control.send("s", raw(b"2"))).version == "2"


@pytest.mark.usefixtures("leaps")
async def test_a_poll_has_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with plane(tmp_path) as control, subscribed(control.path, request_timeout=5.0, refresh_delay=1.0) as found:
        await asyncio.sleep(11.5)  # 0 to 5 and 6 to 11 seconds
        assert found[0].counted() == {"update_attempt": 2, "update_failure": 2}
    assert "cannot fetch secret s: it does not answer in time" in caplog.text


@pytest.mark.usefixtures("leaps")
async def test_the_start_waits_for_a_limited_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with plane(tmp_path) as control, subscribed(control.path, initial_fetch_timeout=7.0) as (stand, first):
        await first
        assert now() == 7.0
        assert stand.counted() == {"update_attempt": 1, "init_fetch_timeout": 1}
        assert "secret s has not come in time" in caplog.text
        control.held["s"].answered.set_result(raw(b"1"))
        await control.poll("s")
        assert stand.it.version == "1", "a late one is used"


async def test_it_ends_at_once_when_it_is_closed(tmp_path: Path) -> None:
    async with plane(tmp_path) as control:
        async with subscribed(control.path) as (stand, _):
            await control.poll("s")
            await stand.it.close()
        assert len(control.polls) == 1
    await Stand(tmp_path).it.close()  # before it has begun


async def test_a_bug_is_reported(tmp_path: Path) -> None:
    reported: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.set_result(context["exception"]))
    async with plane(tmp_path) as control, subscribed(control.path) as (stand, _):
        poll = await control.poll("s")
        stand.it._apply = None  # type: ignore[assignment]  # calling it is a bug
        poll.answered.set_result(raw(b"1"))
        async with asyncio.timeout(PATIENCE):
            assert isinstance(await reported, TypeError)


@pytest.mark.parametrize(
    ("name", "scope"), [("s", "sds.s."), ("a:b", "sds.a_b."), ("spiffe://a:/b", "sds.spiffe_a_b."), ("a.b", "sds.a.b.")]
)
def test_statistics_are_named_as_by_envoy(tmp_path: Path, name: str, scope: str) -> None:
    stand = Stand(tmp_path, secret_of(name))
    assert stand.it.scope == scope
    assert f"{scope}update_rejected" in stand.stats.read().counters
