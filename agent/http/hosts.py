"""Rejects requests for unknown hosts at loopback addresses, against DNS rebinding.

A page in a browser may resolve its own host name to this machine. Its requests then come from this machine, to a
loopback address, and name the page's host. So at loopback addresses only hosts that no page can own are accepted: IP
addresses, `localhost`, and names that the operator configures.
"""

from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address

from agent.http.message import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

_REFUSAL = b"there is no such host here: ask by an address or as localhost, or name it by --status-name\n"


def guarded(handler: Handler, names: Collection[str]) -> Handler:
    """Return a handler that accepts only these host names at loopback addresses."""
    known = {"localhost", *(name.lower() for name in names)}

    async def answer(request: Request) -> Response:
        hosts = [value for name, value in request.headers if name == "host"]
        if is_loopback(request.local) and not all(_is_known(host, known) for host in hosts):
            return Response(421, _REFUSAL)
        return await handler(request)

    return answer


def is_loopback(address: str | None) -> bool:
    """Return whether an internet address is a loopback address; None (a Unix socket) is not."""
    if address is None:
        return False
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _is_known(host: str, known: Collection[str]) -> bool:
    """Return whether a Host header value, with or without port or IPv6 brackets, is accepted."""
    if not host:  # sent by clients that use an address without a name
        return True
    bare, _, _ = host.rpartition("]") if host.startswith("[") else host.partition(":")
    bare = bare.lstrip("[").rstrip(".").lower()
    try:
        ip_address(bare.partition("%")[0])
    except ValueError:
        return bare in known
    return True
