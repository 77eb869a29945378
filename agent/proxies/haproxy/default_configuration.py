"""The configuration that the agent generates for HAProxy when the operator provides none."""

from collections.abc import Iterable

from agent.certificates.references import Reference, Role

_TEXT = """\
defaults
    mode tcp
    timeout client 1h
    timeout connect 5s
    timeout server 1h
frontend tls
    bind {listen} ssl {certificates}
    default_backend service
backend service
    server service {forward}
"""


def default_configuration(listen: tuple[str, int], forward: tuple[str, int], references: Iterable[Reference]) -> str:
    """Return a configuration that serves these certificates at one address for one service, as TCP.

    HAProxy reads a chain and its key from one file, or the key from a file of the chain's name with `.key` at its end.
    """
    chains = [each.path for each in references if each.role is Role.CHAIN]
    certificates = " ".join(f"crt {_quoted(path)}" for path in chains)
    return _TEXT.format(listen=_address(listen), forward=_address(forward), certificates=certificates)


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"
