"""A proxy whose counters the operator hides: its requests at the gate tell what it has applied and refused."""

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import cast

import pytest

from agent.http.message import Request, Response
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.delivery import Delivery
from agent.proxies.envoy.push_contexts import PushMode
from agent.proxies.interface import Admin, Delivered, PushRefusedError

FILES = {"/c/a.crt": b"chain", "/c/a.key": b"key"}
DESCRIPTORS = {"/c/a.crt": 11, "/c/a.key": 12}
TEXT = """
static_resources:
  clusters:
  - transport_socket:
      typed_config:
        common_tls_context:
          tls_certificates: [{certificate_chain: {filename: /c/a.crt}, private_key: {filename: /c/a.key}}]
"""


class Hidden:
    """An admin interface that shows no counters."""

    async def deliveries(self, _scopes: Collection[str]) -> Mapping[str, Delivered]:
        return {}


class Proxy:
    """The proxy's side of the subscription to its one secret."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.version = ""

    async def ask(self) -> str:
        """Return the version in the answer to a request with the version that it runs."""
        body = json.dumps({"version_info": self.version, "resource_names": ["agent_secret_0"]}).encode()
        request = Request("POST", "/v3/discovery:secrets", body=body)
        answer = await self._delivery.answer(request)
        assert isinstance(answer, Response)
        assert isinstance(answer.body, bytes)
        return str(json.loads(answer.body)["version_info"])


@pytest.fixture
def delivery() -> Delivery:
    copies = Configuration(TEXT, "/etc/envoy.yaml", push=PushMode(drains=False)).copies(FILES)
    *_, made = copies.fill_pushable("/run/1", 1, DESCRIPTORS, as_json=True)
    made.offer(DESCRIPTORS, FILES)
    return made


async def push(delivery: Delivery, key: bytes) -> None:
    async with asyncio.timeout(5):
        await delivery.push(cast("Admin", Hidden()), DESCRIPTORS, {**FILES, "/c/a.key": key})


async def test_a_push_ends_when_the_proxy_asks_with_its_version(delivery: Delivery) -> None:
    proxy = Proxy(delivery)
    proxy.version = await proxy.ask()
    pushed = asyncio.create_task(push(delivery, b"second"))
    proxy.version = await proxy.ask()
    last = asyncio.create_task(proxy.ask())
    await pushed
    assert not delivery.refused
    last.cancel()


async def test_a_push_is_refused_when_the_proxy_asks_with_its_old_version(delivery: Delivery) -> None:
    proxy = Proxy(delivery)
    proxy.version = await proxy.ask()
    pushed = asyncio.create_task(push(delivery, b"second"))
    await proxy.ask()
    last = asyncio.create_task(proxy.ask())
    with pytest.raises(PushRefusedError, match="agent_secret_0"):
        await pushed
    assert [each.scope for each in delivery.refused] == ["sds.agent_secret_0"]
    last.cancel()


async def test_what_a_candidate_refuses_at_its_start_is_known_from_its_second_request(delivery: Delivery) -> None:
    proxy = Proxy(delivery)
    assert not delivery.refused
    await proxy.ask()
    assert not delivery.refused
    again = asyncio.create_task(proxy.ask())
    await asyncio.sleep(0)
    assert [str(each) for each in delivery.refused if each.is_refused] == ["secret agent_secret_0"]
    again.cancel()
