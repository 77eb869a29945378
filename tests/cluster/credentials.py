"""What the parts of a cluster prove themselves with: certificates of one authority, and a token for each user."""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from tests import pki

SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
NODE_ADDRESS = "10.88.0.1"
API_NAMES = (NODE_ADDRESS, API_SERVICE, "127.0.0.1", "kubernetes.default.svc")
MASTERS = "system:masters"


@dataclass(frozen=True)
class User:
    """Somebody whom the API server knows by a token."""

    name: str
    group: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def line(self) -> str:
        """Return the user's line of the file of tokens."""
        return f'{self.token},{self.name},{self.name},"{self.group}"\n'


@dataclass
class Credentials:
    """The files below `directory`, from which every part gets those that it needs."""

    directory: Path
    authority: pki.Authority = field(default_factory=lambda: pki.Authority.create("cluster"))
    users: dict[str, User] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(mode=0o700)
        self._write("ca.crt", self.authority.pem)
        self._pair("api", *API_NAMES)
        self._pair("kubelet", NODE_ADDRESS)
        self._pair("api-to-kubelet", "kube-apiserver")
        self._pair("accounts", "service-accounts")

    def path(self, name: str) -> str:
        """Return the path of a file, as a word of a command line."""
        return str(self.directory / name)

    def add(self, user: User) -> Path:
        """Let the API server, which is not started yet, know a user; return the configuration of its client."""
        self.users[user.name] = user
        self._write("tokens.csv", "".join(each.line() for each in self.users.values()).encode())
        server = {"server": f"https://{API_SERVICE}", "certificate-authority": self.path("ca.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": server}],
            "users": [{"name": "it", "user": {"token": user.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        return self._write(f"{user.name.replace(':', '-')}.kubeconfig", json.dumps(document).encode())

    def _pair(self, stem: str, *names: str) -> None:
        leaf = self.authority.issue(names)
        self._write(f"{stem}.crt", leaf.certificate_pem)
        self._write(f"{stem}.key", leaf.key_pem)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path
