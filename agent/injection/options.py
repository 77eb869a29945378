"""The options of an injection, before the annotations of a pod change them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from agent import __version__
from agent.core.errors import UsageError
from agent.injection.edits import JsonValue
from agent.interception.options import Mode

__all__ = [
    "IMAGES",
    "Certificates",
    "InjectionOptions",
    "Mode",
    "Native",
    "Profile",
    "Resources",
    "quantity",
    "version",
]

IMAGES = {"mesh": f"proxy-agent-envoy:{__version__}", "tls": f"proxy-agent:{__version__}"}
"""The images of `examples/container`, by profile."""

_NATIVE_SINCE = (1, 29)
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:[.+-].*)?", re.ASCII)
_QUANTITY = re.compile(r"\d+(?:\.\d+)?(?:m|k|Ki|[MGTPE]i?)?", re.ASCII)
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PLACEHOLDER = re.compile(r"\{(serviceAccount|workload)\}")


class Profile(StrEnum):
    """What the sidecar does."""

    MESH = "mesh"  # Envoy with a control plane, as Istio's sidecar
    TLS = "tls"  # TLS in front of the application, with certificates from files


class Native(StrEnum):
    """Whether the sidecar is an init container that restarts always."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the certificates come from: a secret, or a CSI driver with attributes."""

    secret: str = ""
    driver: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, attributes: Sequence[str] = ()) -> Self | None:
        """Parse `secret:NAME`, `csi:DRIVER` or `none`, and attributes. Raises `UsageError`.

        `{serviceAccount}` and `{workload}` in the name of a secret stand for those of the pod.
        """
        kind, _, name = text.partition(":")
        if attributes and kind != "csi":
            message = f"cannot use --cert-attribute {attributes[0]}: --cert-source is no csi:DRIVER"
            raise UsageError(message)
        if text == "none":
            return None
        if kind == "secret" and _NAME.fullmatch(_PLACEHOLDER.sub("x", name)):
            return cls(secret=name)
        if kind != "csi" or not _NAME.fullmatch(name):
            message = f"cannot use --cert-source {text!r}: write secret:NAME, csi:DRIVER or none"
            raise UsageError(message)
        return cls(driver=name, attributes=dict(map(_pair, attributes)))

    def secret_of(self, service_account: str, workload: str) -> str:
        """Return the name of the secret for a pod."""
        names = {"serviceAccount": service_account, "workload": workload}
        return _PLACEHOLDER.sub(lambda match: names[match[1]], self.secret)


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of processors and memory; an empty text is none."""

    cpu: str = "100m"
    memory: str = "128Mi"
    cpu_limit: str = "2000m"
    memory_limit: str = "1024Mi"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the `resources` of a container."""
        blocks = {
            "requests": {"cpu": self.cpu, "memory": self.memory},
            "limits": {"cpu": self.cpu_limit, "memory": self.memory_limit},
        }
        given = {name: {key: text for key, text in block.items() if text} for name, block in blocks.items()}
        return {name: {**block} for name, block in given.items() if block}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        message = f"cannot use --cert-attribute {text}: write KEY=VALUE"
        raise UsageError(message)
    return key, value


def quantity(text: str) -> float:
    """Return a quantity of Kubernetes, such as 100m or 128Mi, as a number. Raises ValueError."""
    if not _QUANTITY.fullmatch(text):
        message = "it is not a quantity like 100m or 128Mi"
        raise ValueError(message)
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * _UNITS[unit]


@dataclass(frozen=True, slots=True)
class InjectionOptions:
    """What is added. Annotations of a pod replace some of it."""

    profile: Profile = Profile.MESH
    image: str = ""
    init_image: str = ""
    native: Native = Native.AUTO
    kubernetes_version: tuple[int, int] | None = None
    certificates: Certificates | None = None
    resources: Resources = Resources()
    log_level: str = ""
    status_port: int = 15020
    adopt: bool = False
    merge_metrics: bool = True
    # of the profile mesh
    interception: Mode = Mode.REDIRECT
    interception_texts: Mapping[str, str] = field(default_factory=dict)
    """Options of `agent intercept` by name, such as `local-exclude-ports`."""
    discovery_address: str = ""
    cluster_id: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    hold_application: bool = False
    rewrite_probes: bool = True
    bootstrap_override: str = ""
    """The name of a ConfigMap with a bootstrap to merge."""
    # of the profile tls
    listen_port: int = 15443
    forward: str = "127.0.0.1:8080"
    kubernetes_events: bool = False

    @property
    def sidecar_image(self) -> str:
        """The image of the sidecar."""
        return self.image or IMAGES[self.profile]

    @property
    def is_native(self) -> bool:
        """Whether the sidecar is an init container that restarts always."""
        if self.native is not Native.AUTO:
            return self.native is Native.ON
        return self.kubernetes_version is None or self.kubernetes_version >= _NATIVE_SINCE

    @property
    def holds(self) -> bool:
        """Whether an ordinary sidecar is first and holds up the others until its proxy serves."""
        return not self.is_native and (self.hold_application or self.profile is Profile.TLS)

    @property
    def intercepts(self) -> bool:
        """Whether connections are led through the sidecar."""
        return self.profile is Profile.MESH and self.interception is not Mode.NONE

    @property
    def rewrites_probes(self) -> bool:
        """Whether the agent answers the application's probes."""
        return self.profile is Profile.MESH and self.rewrite_probes


def version(text: str) -> tuple[int, int]:
    """Parse a version of Kubernetes, such as 1.29. Raises `UsageError`."""
    match = _VERSION.fullmatch(text)
    if match is None:
        message = f"cannot use --kubernetes-version {text!r}: it is not a version like 1.29"
        raise UsageError(message)
    return int(match[1]), int(match[2])
