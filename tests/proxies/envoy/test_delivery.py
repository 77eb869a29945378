"""Envoy asks and waits; an answer comes once, when there is something new, and a push ends when it is applied."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.http.message import Request, Response
from agent.proxies.envoy.push_form import SECRET
from agent.proxies.envoy.subscriptions import LISTENERS
from agent.proxies.interface import Delivered, PushRefusedError
from tests.processes.fakes import FakeAdmin
from tests.processes.virtual_time import now, turns, virtual_time
from tests.proxies.envoy.push_documents import (
    Tree,
    bootstrap,
    bundle,
    chain,
    cluster,
    configured,
    content,
    context,
    listener,
    numbers_of,
    pair,
    tls,
)

LDS, SDS = "/v3/discovery:listeners", "/v3/discovery:secrets"
FIRST, SECOND = f"{SECRET}0", f"{SECRET}1"
TREE = bootstrap(
    [listener("edge", chain(tls(context(pair("a")))))],
    [cluster("up", context(pair("b"), validation_context=bundle("b")))],
)


class Epoch:
    """An Envoy that asks for its subscriptions as the real one does, and shows what it has of them.

    `refuses`: the subscriptions of which it rejects the next answers. `delay`: how long it takes to apply one, in
    seconds. `hides`: it shows no counters. `silent`: its admin interface raises this.
    """

    def __init__(self, tree: Tree = TREE, *, drains: bool = True) -> None:
        configuration = configured(tree, drains=drains)
        self.numbers = dict(numbers_of(configuration))
        self.contents = {path: content(path) for path in self.numbers}
        copies = configuration.copies(self.numbers)
        _, _, self.delivery = copies.fill_pushable("/run/7", 7, self.numbers, as_json=True)
        self.delivery.offer(self.numbers, self.contents)
        self.versions: dict[str, str] = dict.fromkeys(self.delivery.scopes, "")
        self.rejected: dict[str, int] = dict.fromkeys(self.delivery.scopes, 0)
        self.applied: dict[str, list[str]] = {scope: [] for scope in self.delivery.scopes}
        self.refuses: set[str] = set()
        self.delay: dict[str, float] = {}
        self.hides = False
        self.asked: list[float] = []  # when its admin interface was
        self.admin = FakeAdmin(Path("/nowhere"))
        self.admin.answers["deliveries"] = self._shown
        self.silent: Exception | None = None

    def _shown(self) -> Mapping[str, Delivered]:
        self.asked.append(now())
        if self.silent is not None:
            raise self.silent
        if self.hides:
            return {}
        return {scope: Delivered(version, self.rejected[scope]) for scope, version in self.versions.items()}

    def request(self, scope: str) -> Request:
        """What it asks for a subscription."""
        path, body = (LDS, {}) if scope == LISTENERS else (SDS, {"resource_names": [scope.removeprefix("sds.")]})
        return Request("POST", path, (), json.dumps({"version_info": self.versions[scope], **body}).encode())

    async def ask(self, scope: str) -> Tree:
        """Ask once, and apply or refuse the answer."""
        answer = await self.delivery.answer(self.request(scope))
        assert answer is not None
        assert answer.status == 200
        tree: Tree = json.loads(answer.body)  # type: ignore[arg-type]
        await asyncio.sleep(self.delay.get(scope, 0))
        if scope in self.refuses:
            self.rejected[scope] += 1
        else:
            self.versions[scope] = tree["version_info"]
            self.applied[scope].append(json.dumps(tree["resources"]))
        return tree

    async def _follow(self, scope: str) -> None:
        while True:
            await self.ask(scope)
            await asyncio.sleep(0.5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll every subscription meanwhile, from its first answers on."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._follow(scope)) for scope in self.delivery.scopes]
        await asyncio.sleep(1)
        try:
            yield
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def push(self, *paths: str, again: bool = False) -> None:
        """Push new contents of these files."""
        for path in paths:
            self.contents[path] = b"new " + self.contents[path]
            self.numbers[path] += 100
        await self.delivery.push(self.admin, self.numbers, dict(self.contents), again=again)

    def counts(self) -> list[int]:
        """How many answers it has applied, by subscription."""
        return [len(each) for each in self.applied.values()]


def scope_of(name: str) -> str:
    return f"sds.{name}"


@asynccontextmanager
async def asking(epoch: Epoch, scope: str) -> AsyncIterator["asyncio.Task[Response | None]"]:
    """Leave a request open meanwhile."""
    task = asyncio.get_running_loop().create_task(epoch.delivery.answer(epoch.request(scope)))
    await turns()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# Requests


def test_its_subscriptions_are_listeners_and_each_secret() -> None:
    assert list(Epoch().delivery.scopes) == [LISTENERS, scope_of(FIRST), scope_of(SECOND)]
    assert list(Epoch(drains=False).delivery.scopes) == [scope_of(f"{SECRET}{n}") for n in range(3)]
    assert (Epoch().delivery.drains, Epoch(drains=False).delivery.drains) == (True, False)


@virtual_time
async def test_the_first_request_is_answered_at_once() -> None:
    epoch = Epoch()
    listeners, secret = await epoch.ask(LISTENERS), await epoch.ask(scope_of(FIRST))
    assert listeners["type_url"] == "type.googleapis.com/envoy.config.listener.v3.Listener"
    assert listeners["resources"][0]["name"] == "edge"
    assert secret["type_url"] == "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    [resource] = secret["resources"]
    assert base64.b64decode(resource["tls_certificate"]["private_key"]["inline_bytes"]) == content("/c/b.key")
    assert listeners["version_info"] != secret["version_info"] != ""


@virtual_time
async def test_the_answer_is_json() -> None:
    epoch = Epoch()
    answer = await epoch.delivery.answer(epoch.request(LISTENERS))
    assert answer is not None
    assert (answer.status, answer.headers) == (200, (("content-type", "application/json"),))


@virtual_time
async def test_a_request_with_the_newest_version_is_held_until_there_is_another() -> None:
    epoch = Epoch()
    await epoch.ask(LISTENERS)
    async with asking(epoch, LISTENERS) as held:
        await asyncio.sleep(3600)
        assert not held.done()
        epoch.delivery.offer(epoch.numbers, epoch.contents | {"/c/a.crt": b"new"})
        await asyncio.sleep(0)
        async with asking(epoch, scope_of(FIRST)):  # any request wakes the others
            answer = await held
    assert answer is not None
    assert json.loads(answer.body)["version_info"] != epoch.versions[LISTENERS]  # type: ignore[arg-type]


@virtual_time
async def test_what_was_refused_is_not_sent_again() -> None:
    """Else a proxy that refuses it would ask and be answered in a loop."""
    epoch = Epoch()
    epoch.refuses = {LISTENERS}
    await epoch.ask(LISTENERS)
    async with asking(epoch, LISTENERS) as again:
        await asyncio.sleep(3600)
        assert not again.done()


@virtual_time
async def test_an_older_request_is_released_by_a_newer_one() -> None:
    """Its connection is dead, and what is sent there would be lost."""
    epoch = Epoch()
    await epoch.ask(LISTENERS)
    async with asking(epoch, LISTENERS) as stale, asking(epoch, LISTENERS) as fresh:
        answer = await stale
        assert answer is not None
        assert (answer.status, answer.body) == (503, b"asked again\n")
        assert not fresh.done()


@virtual_time
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SDS, b'{"resource_names": ["operators"]}'),
        (SDS, b'{"resource_names": ["agent_secret_99"]}'),
        (SDS, b'{"resource_names": ["operators", "agent_secret_0"]}'),
        (SDS, b'{"resource_names": []}'),
        (SDS, b'{"resource_names": "agent_secret_0"}'),
        (SDS, b"{}"),
        (SDS, b"[]"),
        (SDS, b"{"),
        ("/v3/discovery:clusters", b"{}"),
        ("/v3/discovery:clusters", b'{"resource_names": ["agent_secret_0"]}'),
        ("/v3/discovery:routes", b"{}"),
    ],
)
async def test_other_requests_are_not_its_own(path: str, body: bytes) -> None:
    assert await Epoch().delivery.answer(Request("POST", path, (), body)) is None


@virtual_time
async def test_a_request_without_a_body_is_one_without_a_version() -> None:
    answer = await Epoch().delivery.answer(Request("POST", LDS, (), b"no JSON"))
    assert answer is not None
    assert answer.status == 200


@virtual_time
async def test_listeners_are_not_delivered_where_they_are_static() -> None:
    assert await Epoch(drains=False).delivery.answer(Request("POST", LDS, (), b"{}")) is None


# Pushes


@virtual_time
async def test_a_push_reaches_what_changed_and_ends_when_it_is_applied() -> None:
    epoch = Epoch()
    async with epoch.running():
        assert epoch.counts() == [1, 1, 1]
        await epoch.push("/c/a.crt")
        assert epoch.counts() == [2, 1, 1]
        assert f"/dev/fd/{epoch.numbers['/c/a.crt']}" in epoch.applied[LISTENERS][-1]
        await epoch.push("/c/b.crt", "/c/b.key")
        assert epoch.counts() == [2, 2, 1]
        await epoch.push("/c/b.ca", "/c/a.key")
        assert epoch.counts() == [3, 2, 2]


@virtual_time
async def test_a_push_is_applied_as_soon_as_the_admin_interface_shows_it() -> None:
    epoch = Epoch()
    async with epoch.running():
        began = now()
        await epoch.push("/c/a.crt")
        assert now() - began < 0.1, "the next request comes after half a second"


@virtual_time
async def test_with_hidden_counters_it_is_applied_when_the_next_request_says_so() -> None:
    epoch = Epoch()
    epoch.hides = True
    async with epoch.running():
        began = now()
        await epoch.push("/c/a.crt")
        assert now() - began == pytest.approx(0.5, abs=0.02)
        assert epoch.counts() == [2, 1, 1]


@virtual_time
async def test_a_push_of_nothing_new_ends_at_once_and_one_again_sends_all() -> None:
    epoch = Epoch()
    async with epoch.running():
        await epoch.push()
        assert epoch.counts() == [1, 1, 1]
        await epoch.push(again=True)
        assert epoch.counts() == [2, 2, 2]


@virtual_time
async def test_what_is_offered_unchanged_is_no_news_whoever_offers_it() -> None:
    epoch = Epoch()
    async with epoch.running():
        epoch.delivery.offer(epoch.numbers, dict(epoch.contents))
        await epoch.delivery.push(epoch.admin, epoch.numbers, dict(epoch.contents))
        await asyncio.sleep(2)
        assert epoch.counts() == [1, 1, 1]


@virtual_time
async def test_what_is_applied_at_the_first_question_costs_that_moment_alone() -> None:
    epoch = Epoch()
    async with epoch.running():
        began = now()
        await epoch.push("/c/a.crt", "/c/b.key")
        assert now() - began == pytest.approx(0.003)


@virtual_time
async def test_no_question_is_asked_before_the_answer_or_its_wait_is_over() -> None:
    """Envoy's one thread would answer it first, and apply the push later."""
    epoch = Epoch()
    async with epoch.running():
        await epoch.push("/c/a.crt")
        await asyncio.sleep(0.3)
        epoch.asked.clear()
        began = now()
        await epoch.push("/c/a.crt")
        assert [each - began for each in epoch.asked] == [pytest.approx(0.2, abs=0.004)], "its next request came then"


@virtual_time
async def test_an_epoch_that_asks_for_nothing_is_asked_whether_it_lives() -> None:
    epoch = Epoch()
    async with epoch.running():
        await epoch.push("/c/a.crt")
    epoch.silent = MachineError("it has exited")
    began = now()
    with pytest.raises(MachineError, match="it has exited"):
        await epoch.push("/c/a.crt")
    assert now() - began == pytest.approx(0.253, abs=0.001)


@virtual_time
async def test_the_counts_before_a_push_are_those_after_the_last_one() -> None:
    epoch = Epoch()
    epoch.rejected[LISTENERS] = 3
    async with epoch.running():
        for number, expected in enumerate([2, 1, 1]):
            epoch.asked.clear()
            await epoch.push("/c/a.crt")
            assert len(epoch.asked) == expected, number
            await asyncio.sleep(1)
        epoch.refuses = {LISTENERS}
        with pytest.raises(PushRefusedError):
            await epoch.push("/c/a.crt")


@virtual_time
async def test_after_a_push_that_did_not_end_well_the_counts_are_asked_for_again() -> None:
    """What it sent may be refused later, which says nothing of the next push."""
    epoch = Epoch()
    async with epoch.running():
        await epoch.push("/c/a.crt")
        await asyncio.sleep(1)
        epoch.delay, epoch.refuses = {LISTENERS: 2.0}, {LISTENERS}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(epoch.push("/c/a.crt"), 1)
        await asyncio.sleep(2)
        epoch.delay, epoch.refuses = {LISTENERS: 0.1}, set()
        await epoch.push(again=True)
        assert epoch.rejected[LISTENERS] == 1


@virtual_time
async def test_a_push_does_not_end_before_every_part_of_it_is_applied() -> None:
    epoch = Epoch()
    async with epoch.running():
        epoch.delay = {LISTENERS: 0.2, scope_of(FIRST): 1.5}
        began = now()
        await epoch.push("/c/a.crt", "/c/b.key")
        assert epoch.counts() == [2, 2, 1]
        assert now() - began == pytest.approx(1.5, abs=0.02)


@virtual_time
@pytest.mark.parametrize("refused", [LISTENERS, scope_of(FIRST)])
async def test_a_refused_push_raises_with_the_subscription(refused: str) -> None:
    epoch = Epoch()
    epoch.rejected[refused] = 3  # updates that were rejected earlier count for nothing
    async with epoch.running():
        epoch.refuses = {refused}
        with pytest.raises(PushRefusedError) as caught:
            await epoch.push("/c/a.crt", "/c/b.key")
        assert (caught.value.scope, str(caught.value)) == (refused, refused)


@virtual_time
async def test_after_a_refusal_what_served_is_sent_again_and_the_next_push_is_applied() -> None:
    epoch = Epoch()
    async with epoch.running():
        numbers, contents = dict(epoch.numbers), dict(epoch.contents)
        epoch.refuses = {LISTENERS}
        with pytest.raises(PushRefusedError):
            await epoch.push("/c/a.crt", "/c/b.key")
        epoch.refuses = set()
        epoch.numbers, epoch.contents = numbers, contents
        await epoch.push(again=True)
        assert [each[-1] for each in epoch.applied.values()] == [each[0] for each in epoch.applied.values()]
        await epoch.push("/c/a.crt")
        assert epoch.counts() == [3, 3, 2]


@virtual_time
async def test_a_refusal_that_is_not_counted_is_recognised_by_the_next_request() -> None:
    epoch = Epoch()
    async with epoch.running():
        epoch.hides, epoch.refuses = True, {LISTENERS}
        with pytest.raises(PushRefusedError):
            await epoch.push("/c/a.crt")


@virtual_time
async def test_an_epoch_that_does_not_answer_is_an_error_and_nothing_is_offered() -> None:
    epoch = Epoch()
    async with epoch.running():
        epoch.silent = MachineError("it does not answer")
        with pytest.raises(MachineError, match="it does not answer"):
            await epoch.push("/c/a.crt")
        await asyncio.sleep(2)
        assert epoch.counts() == [1, 1, 1]


# An earlier agent's epoch


def adopted() -> Epoch:
    """An epoch that has everything from an earlier agent."""
    epoch = Epoch()
    configuration = configured(TREE)
    copies = configuration.copies(epoch.numbers)
    _, _, epoch.delivery = copies.fill_pushable("/run/7", 7, epoch.numbers, as_json=True)
    epoch.delivery.assume(epoch.numbers, dict(epoch.contents))
    epoch.versions = dict.fromkeys(epoch.delivery.scopes, "of the earlier agent")
    return epoch


@virtual_time
async def test_what_an_earlier_agent_delivered_is_not_sent_again() -> None:
    epoch = adopted()
    async with epoch.running():
        await asyncio.sleep(3600)
        await epoch.push()
        assert epoch.counts() == [0, 0, 0]


@virtual_time
async def test_into_an_adopted_epoch_only_what_changes_is_pushed() -> None:
    epoch = adopted()
    async with epoch.running():
        await epoch.push("/c/a.crt")
        assert epoch.counts() == [1, 0, 0]
        await epoch.push("/c/b.ca")
        assert epoch.counts() == [1, 0, 1]


@virtual_time
async def test_a_push_that_an_earlier_agent_did_not_end_is_undone_everywhere() -> None:
    epoch = adopted()
    async with epoch.running():
        await epoch.push(again=True)
        assert epoch.counts() == [1, 1, 1]


@virtual_time
async def test_no_version_is_used_twice() -> None:
    epoch, seen = Epoch(), list[str]()
    async with epoch.running():
        for _ in range(20):
            await epoch.push("/c/a.crt")
            await asyncio.sleep(1)
            seen.append(epoch.versions[LISTENERS])
    assert len(set(seen)) == 20


def test_no_content_of_a_key_is_in_its_repr() -> None:
    delivery = Epoch().delivery
    shown = repr(delivery.__dict__)
    assert "secret of" not in shown
    assert base64.b64encode(content("/c/b.key")).decode()[:20] not in shown


def test_contents_that_did_not_change_are_not_digested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = Epoch()
    digested: list[bytes] = []
    sha256 = hashlib.sha256

    def noted(data: bytes) -> object:
        digested.append(data)
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", noted)
    epoch.delivery.offer(epoch.numbers, epoch.contents | {"/c/a.crt": b"new"})
    assert [each for each in digested if b"secret" in each or each == b"new"] == [b"new"]
