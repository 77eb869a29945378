"""The control plane of a proxy: its address, how it is reached, and by which names its certificate is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from agent.core.errors import UsageError

PILOT = "istio-pilot:15010"
ISTIOD = "istiod.istio-system.svc:15012"

_SECURE_PORT = 15012  # where istiod speaks TLS
_PILOT_ACCOUNT = "istio-pilot-service-account"
_TRUST_DOMAIN = "cluster.local"


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return the two parts of host:port, an IPv6 address without its brackets; None if the text is of another form."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Files:
    """The certificate, key and roots with which a proxy reaches its control plane: paths."""

    chain: str
    key: str
    roots: str

    @classmethod
    def named(cls, environment: Mapping[str, str], side: str) -> Self:
        """Return the files that ISTIO_META_TLS_… names for the SERVER or the CLIENT side."""
        names = {"CERT_CHAIN": "cert-chain.pem", "KEY": "key.pem", "ROOT_CERT": "root-cert.pem"}
        prefix = f"ISTIO_META_TLS_{side}_"
        return cls(*(environment.get(prefix + name) or f"/etc/certs/{file}" for name, file in names.items()))

    @property
    def all(self) -> tuple[str, str, str]:
        """The three paths."""
        return self.chain, self.key, self.roots


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane; without `files` it is reached in plain text."""

    host: str
    port: int
    files: Files | None = None
    names: tuple[tuple[str, str], ...] = ()
    """The names that its certificate must have one of: (DNS or URI, name)."""

    @classmethod
    def parse(cls, address: str) -> Self:
        """Parse host:port. Raises `UsageError`."""
        endpoint = host_and_port(address)
        if endpoint is None:
            message = f"cannot use the discovery address {address!r}: it is not of the form host:port"
            raise UsageError(message)
        return cls(*endpoint)

    @property
    def is_secure_by_default(self) -> bool:
        """Whether its port means TLS where no policy is given."""
        return self.port == _SECURE_PORT

    def names_by(self, identity: str, trust_domain: str, namespace: str) -> tuple[tuple[str, str], ...]:
        """Return the names of its certificate: the given identity's, istiod's host name, or Pilot's account."""
        domain = trust_domain or _TRUST_DOMAIN
        if identity:
            return (("URI", f"spiffe://{domain}/{identity}"),)
        if self.is_secure_by_default:
            return (("DNS", self.host),)
        parts = self.host.split(".")
        home = parts[1] if len(parts) > 1 else namespace
        return (("URI", f"spiffe://{domain}/ns/{home}/sa/{_PILOT_ACCOUNT}"),)
