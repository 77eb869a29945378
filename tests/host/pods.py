"""Service accounts as a kubelet mounts them: a token with claims that nobody signed, and the CA of a cluster."""

import base64
import json
from pathlib import Path

from agent.host.service_account import Pod
from tests.pki import Authority

POD = Pod("prod", "app-1", "u-1")


def token(claims: object) -> str:
    """Return a token with these claims."""
    return with_payload(json.dumps(claims).encode())


def with_payload(payload: bytes) -> str:
    """Return a token with these bytes in place of claims."""
    return f"e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.c2ln"


BOUND = token({"kubernetes.io": {"namespace": "prod", "pod": {"name": "app-1", "uid": "u-1"}}})


def mount(directory: Path, authority: Authority, text: str = BOUND) -> Path:
    """Write a token and the CA of a cluster; return the directory."""
    (directory / "ca.crt").write_bytes(authority.pem)
    (directory / "token").write_text(text)
    return directory
