"""A pod as a proxy in it sees it: names, addresses, labels and annotations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.core.errors import UsageError

Address = IPv4Address | IPv6Address

_LOCALITY_LABELS = ("topology.istio.io/locality", "istio-locality")


class Family(StrEnum):
    """The addresses that the pod has, and Envoy's name for how it looks up names then."""

    V4 = "V4_ONLY"
    V6 = "V6_ONLY"
    BOTH = "ALL"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The pod's IP addresses, at least one; the first is the one that it is known by."""

    all: tuple[Address, ...]

    @classmethod
    def parse(cls, texts: Sequence[str], where: str) -> "Addresses":
        """Parse addresses and drop repeated ones. Raises `UsageError` naming `where` they are from."""
        try:
            return cls(tuple(dict.fromkeys(ip_address(text.strip()) for text in texts)))
        except ValueError:
            message = f"cannot use {where}: it is not an IP address"
            raise UsageError(message) from None

    @property
    def first(self) -> Address:
        """The one that the proxy is known by."""
        return self.all[0]

    @property
    def family(self) -> Family:
        """Which families there are."""
        versions = {address.version for address in self.all}
        return Family.BOTH if len(versions) > 1 else Family.V4 if versions == {4} else Family.V6

    @property
    def localhost(self) -> str:
        """The loopback address of the first one's family."""
        return "127.0.0.1" if self.first.version == 4 else "::1"

    @property
    def wildcards(self) -> tuple[str, ...]:
        """The addresses that mean all of a family, the first one's first."""
        names = {4: "0.0.0.0", 6: "::"}  # noqa: S104  # as in the pods that it replaces
        return tuple(names[version] for version in dict.fromkeys(address.version for address in self.all))


@dataclass(frozen=True, slots=True)
class Locality:
    """Where the pod runs; empty parts are unknown."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    @classmethod
    def of(cls, labels: Mapping[str, object]) -> "Locality":
        """Return the locality of a pod's labels: `region/zone/sub-zone`, or with dots where there is no slash."""
        text = next((str(labels[name]) for name in _LOCALITY_LABELS if labels.get(name)), "")
        parts = text.split("/" if "/" in text else ".", 2)
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of a proxy, from the environment and the downward API's files."""

    environment: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name; empty if unknown."""
        return self.environment.get("POD_NAME", "")

    @property
    def namespace(self) -> str:
        """Its namespace; empty if unknown."""
        return self.environment.get("POD_NAMESPACE", "")

    @property
    def address_texts(self) -> list[str]:
        """The addresses that the environment names, the pod's own first."""
        texts = [self.environment.get("INSTANCE_IP", ""), *self.environment.get("INSTANCE_IPS", "").split(",")]
        return [text.strip() for text in texts if text.strip()]

    @property
    def cpu_limit(self) -> int | None:
        """Its limit of processors, rounded up; None without one. Raises `UsageError`."""
        text = self.environment.get("ISTIO_CPU_LIMIT", "")
        if not text:
            return None
        if not re.fullmatch(r"\d+m?", text, re.ASCII):
            message = f"cannot use ISTIO_CPU_LIMIT={text!r}: it is not a number of processors, like 2 or 500m"
            raise UsageError(message)
        thousandths = int(text[:-1]) if text.endswith("m") else int(text) * 1000
        return -(-thousandths // 1000) or None
