"""The addresses of this machine's interfaces, and of other hosts by name."""

import socket
import threading
import time
from ipaddress import ip_address

import psutil

_INTERVAL = 0.1  # seconds between looks at the interfaces


def own_addresses(timeout: float) -> list[str]:
    """Return the addresses of the interfaces that are up, but for loopback and link-local ones.

    An address may come after the process, so none at all is looked for again until `timeout` seconds are over.
    """
    deadline = time.monotonic() + timeout
    while not (found := _found()) and time.monotonic() < deadline:
        time.sleep(_INTERVAL)
    return found


def _found() -> list[str]:
    states = psutil.net_if_stats()
    addresses = [
        ip_address(address.address.partition("%")[0])
        for name, listed in psutil.net_if_addrs().items()
        if name in states and states[name].isup
        for address in listed
        if address.family in {socket.AF_INET, socket.AF_INET6}
    ]
    return [str(each) for each in addresses if not each.is_loopback and not each.is_link_local]


def first_address(host: str, timeout: float) -> str | None:
    """Return the first address of a host, IPv4 before IPv6; None if it has none, or none in time."""
    answers: list[str | None] = []
    asking = threading.Thread(target=lambda: answers.append(_looked_up(host)), daemon=True)
    asking.start()
    asking.join(timeout)
    return answers[0] if answers else None


def _looked_up(host: str) -> str | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    ordered = sorted(found, key=lambda each: each[0] != socket.AF_INET)
    return str(ordered[0][4][0]) if ordered else None
