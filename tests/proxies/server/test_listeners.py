import pytest

from agent.core.errors import UsageError
from agent.proxies.server.listeners import parse


@pytest.mark.parametrize(
    ("text", "name", "address", "is_plain"),
    [
        ("web=127.0.0.1:80", "web", "tcp://127.0.0.1:80", False),
        ("web=tcp:127.0.0.1:80", "web", "tcp://127.0.0.1:80", False),
        ("web=tcp://127.0.0.1:80", "web", "tcp://127.0.0.1:80", False),
        ("web-2_b=0.0.0.0:80", "web-2_b", "tcp://0.0.0.0:80", False),
        ("web=[::]:443", "web", "tcp://[::]:443", False),
        ("web=[0:0::1]:443", "web", "tcp://[::1]:443", False),
        ("web=plain:127.0.0.1:80", "web", "tcp://127.0.0.1:80", True),
        ("web=unix:/run/web.sock", "web", "unix:///run/web.sock", False),
        ("web=unix:///run/web.sock", "web", "unix:///run/web.sock", False),
        ("web=plain:unix:/run/web.sock", "web", "unix:///run/web.sock", True),
        ("web=/run//web.sock", "web", "unix:///run/web.sock", False),
    ],
)
def test_a_listener_has_the_kernels_own_spelling(text: str, name: str, address: str, *, is_plain: bool) -> None:
    (listener,) = parse([text])
    assert (listener.name, listener.place.address, listener.is_plain) == (name, address, is_plain)
    assert listener.is_tcp == address.startswith("tcp://")


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["web=127.0.0.1:0"], "could not be told from the serving one at port 0; name a port"),
        (["web=127.0.0.1"], "it is not host:port"),
        (["web="], "it is not host:port"),
        (["=127.0.0.1:80"], "the name may have letters, digits, - and _ only"),
        (["a:b=127.0.0.1:80"], "the name may have letters"),
        (["web=localhost:80"], "localhost is no IP address"),
        (["web=udp:127.0.0.1:53"], "only TCP and Unix listeners can be handed from epoch to epoch"),
        (["web=udp://127.0.0.1:53"], "only TCP and Unix listeners"),
        (["web=224.0.0.1:80"], "224.0.0.1 is a multicast address"),
        (["web=unix:web.sock"], "the path is not absolute"),
        (["web=unix:@web"], "an abstract socket cannot be replaced"),
        (["web=unix:/" + "a" * 95], "the path is longer than 95 bytes"),
        (["web=127.0.0.1:80", "web=127.0.0.1:81"], "another listener has the name web"),
        (["web=127.0.0.1:80", "b=plain:127.0.0.1:80"], "web has the same address"),
        (["web=[::1]:80", "b=[0::1]:80"], "web has the same address"),
    ],
)
def test_what_cannot_work_is_refused(texts: list[str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(texts)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_order_is_kept() -> None:
    assert [each.name for each in parse(["b=127.0.0.1:2", "a=127.0.0.1:1"])] == ["b", "a"]
