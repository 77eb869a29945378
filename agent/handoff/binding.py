"""Sockets in an epoch's directory, which belongs to the proxy's user: nothing is done there that could follow a name.

Whatever lies in that directory may be exchanged for a link at any moment. So a socket of the agent is bound, and given
to the proxy's user, in a directory that only the agent can enter, and renamed from there into the epoch's: rename(2)
follows no link at either end, and the name never disappears, since a proxy that finds no file there aborts at once.
One of the proxy is taken hold of without following a link (O_PATH, open(2)), looked at, and connected to as it is held.
"""

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from agent.core.errors import MachineError
from agent.http.held import NoSocket, held_socket

PREFIX = "~"
"""How the names of these directories begin; what a killed agent left of them may be removed."""


def bind(kind: socket.SocketKind, path: Path, owner: tuple[int, int] | None = None, mode: int = 0o600) -> socket.socket:
    """Return a socket bound at `path`, in place of whatever is there. Raises `MachineError`.

    From the moment it has that name a stream socket listens, and datagrams bring their senders' credentials: an adopted
    epoch may speak at once. `owner` (uid, gid) may connect and send. The private directory is made beside the one that
    `path` is in.
    """
    bound = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    private: str | None = None
    try:
        private = tempfile.mkdtemp(prefix=PREFIX, dir=path.parent.parent)
        name = f"{private}/s"
        bound.bind(name)
        os.chmod(name, mode)  # noqa: PTH101  # beside its sibling
        if owner is not None:
            os.chown(name, *owner)
        if kind is socket.SOCK_STREAM:
            bound.listen()
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        os.rename(name, path)  # noqa: PTH104
    except OSError as error:
        bound.close()
        message = f"cannot bind {path}: {error.strerror}"
        raise MachineError(message) from error
    finally:
        if private is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(private)
    return bound


def connect(path: Path, owner: tuple[int, int] | None = None) -> socket.socket:
    """Return a datagram socket connected to the one at `path`, which is the user's of `owner` (uid, gid).

    Raises `MachineError` if nobody is there, or somebody else.
    """
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        with held_socket(path, None if owner is None else owner[0]) as way:
            sender.connect(way)
    except OSError as error:
        sender.close()
        reason = "it is no socket of the proxy's" if isinstance(error, NoSocket) else error.strerror
        message = f"cannot reach {path}: {reason}"
        raise MachineError(message) from error
    return sender
