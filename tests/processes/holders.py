"""Ports that are held by another program or reserved for a test, and bootstraps that listen on them."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

HOLDER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0), reuse_port=True) as made:
    print(made.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder() -> Iterator[tuple[int, int]]:
    """Have another process listen on a port."""
    command = [sys.executable, "-I", "-S", "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@contextmanager
def reserved() -> Iterator[int]:
    """A port that is ours but that nobody listens on; whoever binds with reuse_port may have it as well."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", 0))
        yield made.getsockname()[1]


def bootstrap(*addresses: Mapping[str, object], **more: object) -> str:
    """A bootstrap whose listeners answer nothing."""
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    chains = [{"filters": [{"name": "echo", "typed_config": echo}]}]
    listeners = [
        {"name": f"l{number}", "address": address, "filter_chains": chains, **more}
        for number, address in enumerate(addresses)
    ]
    return json.dumps({"static_resources": {"listeners": listeners}})


def tcp(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
