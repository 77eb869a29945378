"""Facts about certificates as openssl prints them, from a file or from a listener."""

import subprocess
from pathlib import Path

from agent.status.model import Facts
from tests.system.eventually import PATIENCE

_WANTED = "-serial -subject -issuer -nameopt RFC2253 -dates -dateopt iso_8601 -fingerprint -sha256"


def told_of(path: Path) -> set[str]:
    """Return the facts that openssl x509 prints of the first certificate in a file."""
    out = _run(["x509", "-noout", "-in", str(path), *_WANTED.split(), "-ext", "subjectAltName"])
    return {line.strip() for line in out.splitlines()}


def expected(facts: Facts) -> set[str]:
    """Return the same facts from our own parser; openssl x509 does not print the key's type."""
    return {
        f"serial={facts.serial.upper()}",
        f"subject={facts.subject}",
        f"issuer={facts.issuer}",
        f"notBefore={facts.not_before:%Y-%m-%d %H:%M:%S}Z",
        f"notAfter={facts.not_after:%Y-%m-%d %H:%M:%S}Z",
        f"sha256 Fingerprint={bytes.fromhex(facts.fingerprint).hex(':').upper()}",
        "X509v3 Subject Alternative Name:",
        ", ".join(facts.names).replace("IP:", "IP Address:"),
    }


def shown_at(host: str, port: int, name: str) -> str:
    """Return the leaf, as PEM, that openssl s_client receives for a server name; empty: without a name."""
    asked = ["-servername", name] if name else ["-noservername"]
    out = _run(["s_client", "-connect", f"{host}:{port}", *asked, "-showcerts"])
    return out[out.index("-----BEGIN") : out.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"


def _run(arguments: list[str]) -> str:
    command = ["openssl", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
