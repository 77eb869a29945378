"""Binds and connects Unix sockets in an epoch's directory without following symbolic links.

The directory belongs to the proxy's user, so anything in it may be replaced by a link at any moment. The agent's
sockets are therefore bound, and given to the proxy's user, in a directory that only the agent can enter, and then
renamed into the epoch's. rename(2) follows no link at either end, and the name never disappears: a proxy that finds no
file there aborts at once. A socket of the proxy is opened without following a link (O_PATH, open(2)), checked, and
connected through the open descriptor.
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
"""Name prefix of the private directories; a killed agent's may be removed."""


def bind(kind: socket.SocketKind, path: Path, owner: tuple[int, int] | None = None, mode: int = 0o600) -> socket.socket:
    """Return a socket bound at `path`, replacing any existing file.

    A stream socket listens, and a datagram socket receives its senders' credentials, before it gets that name: an
    adopted epoch may send at once. `owner` (uid, gid) may connect and send. The private directory is created next to
    the directory of `path`. Raises `MachineError`.
    """
    bound = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    private: str | None = None
    try:
        private = tempfile.mkdtemp(prefix=PREFIX, dir=path.parent.parent)
        name = f"{private}/s"
        bound.bind(name)
        os.chmod(name, mode)  # noqa: PTH101  # like os.chown and os.rename below
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
    """Return a datagram socket connected to the one at `path`, owned by `owner` (uid, gid).

    Raises `MachineError` if nothing is bound there, or if the socket belongs to another user.
    """
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        with held_socket(path, None if owner is None else owner[0]) as way:
            sender.connect(way)
    except OSError as error:
        sender.close()
        reason = "it is not a socket of the proxy" if isinstance(error, NoSocket) else error.strerror
        message = f"cannot reach {path}: {reason}"
        raise MachineError(message) from error
    return sender
