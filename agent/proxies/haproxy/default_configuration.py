"""The configuration that the agent generates for HAProxy when the operator provides none."""

from collections.abc import Iterable, Sequence

from agent.certificates.references import Reference, Role
from agent.proxies.haproxy.document import OWN_LIST, quoted

_TEXT = """\
defaults
    mode tcp
    timeout client 1h
    timeout connect 5s
    timeout server 1h
frontend tls
{keys}    bind {listen} ssl crt-list {certificates}
    default_backend service
backend service
    server service {forward}
"""


def default_configuration(listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]) -> str:
    """Return a configuration that serves these certificates at one address for one service, as TCP.

    They are in a list, because a line has 64 words at most; a comment names each with its key, which may have any name.
    """
    pairs = _pairs(list(references))
    keys = "".join(f"    # agent: key {quoted(chain)} {quoted(key)}\n" for chain, key in pairs)
    return _TEXT.format(listen=_address(listen), forward=_address(forward), certificates=OWN_LIST, keys=keys)


def _pairs(references: Sequence[Reference]) -> list[tuple[str, str]]:
    keys = {each.group: each.path for each in references if each.role is Role.KEY}
    chains = [each for each in references if each.role is Role.CHAIN]
    return [(each.path, keys[each.group]) for each in chains if each.group in keys]


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
