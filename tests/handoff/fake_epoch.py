"""A small program that acts as an epoch: it executes commands from stdin on its sockets, and prints the results.

Each input line is a JSON list, a verb and its arguments, and gets one line of JSON as the result. Bytes are
hexadecimal. The program shares no code with the agent, and is another process, so its datagrams have their own pid.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIRECTORY, BASE_ID = Path(sys.argv[1]), int(sys.argv[2])


def name(role: str) -> str:
    """Return the path of `child_1` and the like."""
    kind, _, epoch = role.rpartition("_")
    return str(DIRECTORY / f"hr_{kind}_{BASE_ID * 10 + int(epoch)}")


def bound(role: str) -> socket.socket:
    """Bind a datagram socket as Envoy does: blocking, after an unlink."""
    Path(name(role)).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(name(role))
    return made


OWN = {role: bound(role) for role in ("parent_1", "child_1", "udp_parent_1", "udp_child_1")}
LISTENING: list[socket.socket] = []


def send(role: str, *datagrams: str) -> None:
    """Send datagrams to a role of the agent."""
    for datagram in datagrams:
        OWN["child_1"].sendto(bytes.fromhex(datagram), name(role))


def send_with(role: str, datagram: str, count: int) -> None:
    """Send a datagram with this many descriptors of the first listening socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(name(role))
        socket.send_fds(sender, [bytes.fromhex(datagram)], [LISTENING[0].fileno()] * count)


def read(role: str) -> dict[str, object]:
    """Receive one datagram; return its bytes and facts about its descriptor."""
    data, descriptors, flags, _ = socket.recv_fds(OWN[role], 1 << 16, 4)
    inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    return {"data": data.hex(), "inodes": inodes, "flags": flags & ~socket.MSG_CMSG_CLOEXEC}


def listen() -> dict[str, int]:
    """Listen on a port of loopback."""
    LISTENING.append(socket.create_server(("127.0.0.1", 0)))
    return {"port": LISTENING[-1].getsockname()[1], "inode": os.fstat(LISTENING[-1].fileno()).st_ino}


VERBS: dict[str, Callable[..., Any]] = {"send": send, "send_with": send_with, "read": read, "listen": listen}

print(json.dumps("ready"), flush=True)  # noqa: T201
for line in sys.stdin:
    verb, *arguments = json.loads(line)
    print(json.dumps(VERBS[verb](*arguments)), flush=True)  # noqa: T201
