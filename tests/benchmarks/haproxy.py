"""haproxy in the comparison: one thread, in TCP mode, terminating TLS like the others."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Passage:
    """A port whose connections are forwarded to a port of the origin, with TLS or without."""

    port: int
    origin: int
    tls: bool


def haproxy_binary() -> Path | None:
    """Return the path of haproxy."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def configuration(passages: list[Passage], pair: Path) -> str:
    """Return haproxy's configuration; `pair` contains a chain and its key."""
    lines = ["global", "  nbthread 1", "  maxconn 8000", "defaults", "  mode tcp", "  maxconn 8000"]
    lines += ["  timeout connect 5s", "  timeout client 1h", "  timeout server 1h"]
    for passage in passages:
        secured = f" ssl crt {pair}" if passage.tls else ""
        lines += [f"listen p{passage.port}", f"  bind 127.0.0.1:{passage.port}{secured}"]
        lines += [f"  server origin 127.0.0.1:{passage.origin}"]
    return "\n".join([*lines, ""])
