"""A TLS server context from a certificate chain and a key in memory."""

import ssl
from contextlib import closing

from agent.certificates.findings import Fault, Unusable
from agent.host.memfds import Memfds


def server_context(path: str, chain: bytes, key: bytes) -> ssl.SSLContext:
    """Return a context for HTTP/1.1 over TLS 1.2 and newer.

    `path` is only for messages. Raises `Unusable` if OpenSSL rejects the pair, as for a key that is too short, and
    `MachineError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with closing(Memfds()) as files:  # OpenSSL reads files: these cannot change between its checks and ours
        first, second = (f"/proc/self/fd/{files.seal(path, content)}" for content in (chain, key))
        try:
            context.load_cert_chain(first, second, _no_password)
        except ssl.SSLError as error:
            why = error.reason or "its key cannot be read"
            why = f"OpenSSL rejects it ({why})"
            raise Unusable(path, Fault.PROXY, why, "write one that it accepts") from error
    return context


def _no_password() -> str:
    """Answer OpenSSL, which would ask at the terminal."""
    return ""
