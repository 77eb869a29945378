"""The original destination of a redirected client, as the kernel reports it."""

import socket
import struct
from ipaddress import ip_address

import pytest

from agent.sidecar.clusters import original_destination
from agent.sidecar.model import SocketAddress


class Redirected(socket.socket):
    """A client's socket in a network whose firewall redirects: the kernel here has none."""

    wanted = ("", 0)

    def getsockopt(self, _level: int, _option: int, size: int = 0) -> bytes:  # type: ignore[override]
        number = ip_address(self.wanted[0]).packed
        before = b"" if len(number) == 4 else bytes(4)  # the IPv6 flow label precedes its address
        return (struct.pack("=H", self.family) + struct.pack("!H", self.wanted[1]) + before + number).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("family", "here", "other"), [("AF_INET", "127.0.0.1", "10.1.2.3"), ("AF_INET6", "::1", "fd::1")]
)
def test_a_redirect_is_recognised(family: str, here: str, other: str) -> None:
    with Redirected(getattr(socket, family)) as client:
        client.bind((here, 0))
        client.wanted = (other, 8443)
        assert original_destination(client) == SocketAddress(other, 8443)
        client.wanted = (here, client.getsockname()[1])
        assert original_destination(client) is None


def test_without_connection_tracking_there_is_no_destination() -> None:
    for family in (socket.AF_INET, socket.AF_UNIX):
        with socket.socket(family) as client:
            assert original_destination(client) is None
