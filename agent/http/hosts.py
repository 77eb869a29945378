"""For whom a request was meant: a page in a browser may have had its own name led to this machine (DNS rebinding).

Such a request comes from this machine, to a loopback address, and names the page's host. So at loopback addresses only
names are answered that nobody else can have: addresses, `localhost`, and those that the operator gives.
"""

from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address

from agent.http.message import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

_REFUSAL = b"there is no such host here: ask by an address or as localhost, or name it by --status-name\n"


def guarded(handler: Handler, names: Collection[str]) -> Handler:
    """A handler that answers for these names and no others, where it is asked at a loopback address."""
    known = {"localhost", *(name.lower() for name in names)}

    async def answer(request: Request) -> Response:
        hosts = [value for name, value in request.headers if name == "host"]
        if is_loopback(request.local) and not all(_is_known(host, known) for host in hosts):
            return Response(421, _REFUSAL)
        return await handler(request)

    return answer


def is_loopback(address: str | None) -> bool:
    """Whether an internet address is this machine's own to itself; a Unix socket has none."""
    if address is None:
        return False
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _is_known(host: str, known: Collection[str]) -> bool:
    """`host`: as a header has it, with a port or without; in brackets, an address of version 6."""
    if not host:  # as of who asks by an address without a name
        return True
    bare, _, _ = host.rpartition("]") if host.startswith("[") else host.partition(":")
    bare = bare.lstrip("[").rstrip(".").lower()
    try:
        ip_address(bare.partition("%")[0])
    except ValueError:
        return bare in known
    return True
