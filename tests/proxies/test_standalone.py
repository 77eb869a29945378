"""What a proxy answers that fetches nothing."""

import asyncio
from fnmatch import fnmatch
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.handoff.socket_store import ListenAddress
from agent.http.message import Request
from agent.proxies.standalone import (
    NoForwarder,
    NoOverride,
    StandaloneAdmin,
    StandaloneConfiguration,
    every_name_in,
)

PLACE = ListenAddress("tcp://127.0.0.1:1", "", 3)


def test_its_listeners_are_where_its_sockets_are() -> None:
    admin = StandaloneAdmin(Path("/x"), StandaloneConfiguration("h.cfg"))
    admin.found = [PLACE, ListenAddress("tcp://127.0.0.1:1", "", 4)]
    assert asyncio.run(admin.listeners()) == {PLACE.listener}
    assert asyncio.run(admin.inbound()).places == {PLACE.listener}
    assert admin.place == Path("/x")


def test_it_has_no_metrics_unless_its_kind_has() -> None:
    admin = StandaloneAdmin(Path("/x"), StandaloneConfiguration("h.cfg"))
    with pytest.raises(OSError, match="no metrics"):
        admin.exposition(Request("GET", "/", ()))


def test_requests_and_overrides_are_refused_with_the_reason() -> None:
    response = asyncio.run(NoForwarder("because").answer(Request("GET", "/", ())))
    assert (response.status, response.body) == (404, b"because\n")
    with pytest.raises(BadInput, match=r"^cannot merge b over a: "):
        NoOverride().merged("", "a", "", "b")


@pytest.mark.parametrize("directory", ["/c", "/c[1]", "/a*b?"])
def test_the_wildcard_of_a_directory_matches_its_names_only(directory: str) -> None:
    assert fnmatch(f"{directory}/x.pem", every_name_in(directory))
    assert not fnmatch("/c1/x.pem", every_name_in("/c[1]"))
