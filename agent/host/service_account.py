"""The Kubernetes service account that a kubelet mounts into a container.

The directory holds a token, replaced about once an hour, and the CA of the API server's certificate. The token's claims
name the pod (Kubernetes 1.22 and later), so the pod's name needs no configuration.
"""

import base64
import codecs
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agent.core.errors import MachineError

DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of this process."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The API server's address and this pod's credentials."""

    host: str
    port: int
    pod: Pod
    directory: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ, directory: Path = DIRECTORY) -> Self:
        """Read the mounted service account. Raises `MachineError` if there is none, or not a pod's."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdecimal() or int(port) not in range(1, 1 << 16):
            message = "cannot find the API server: KUBERNETES_SERVICE_HOST and _PORT are not set; is this a pod?"
            raise MachineError(message)
        codecs.lookup("idna")  # early: the first connection needs it, after an upgrade may have replaced it
        found = cls(host, int(port), _pod_of(_read(directory / "token")), directory)
        found.trust()
        return found

    @property
    def authority(self) -> str:
        """The server's `host:port` for a URL and a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def token(self) -> str:
        """The current bearer token. Raises `MachineError`."""
        return _read(self.directory / "token")

    def trust(self) -> ssl.SSLContext:
        """Return a TLS client context that trusts only the cluster's CA. Raises `MachineError`."""
        path = self.directory / "ca.crt"
        try:
            context = ssl.create_default_context(cafile=str(path))
        except OSError as error:  # including ssl.SSLError
            message = f"cannot use {path}: {error}"
            raise MachineError(message) from error
        # Python 3.13 requires extensions that the CAs of many clusters lack, and that Go does not require.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a token"
        message = f"cannot read {path}: {why}; does the pod set automountServiceAccountToken: true?"
        raise MachineError(message) from error


def _pod_of(token: str) -> Pod:
    """Parse the claims of a JSON Web Token (RFC 7519); the API server checks its signature."""
    try:
        payload = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["kubernetes.io"]
        return Pod(claims["namespace"], claims["pod"]["name"], claims["pod"]["uid"])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        message = "cannot determine the pod: the service account's token is not bound to one"
        raise MachineError(message) from error
