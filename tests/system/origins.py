"""Origins behind the proxies under test: one that records requests, one with endless responses.

The second one is a separate process, `python -m tests.system.origins PORT`: it uses a whole core.
"""

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.system.eventually import eventually
from tests.system.listening import listening
from tests.system.room import Room

ENDLESS = 1 << 40
PART = bytes(1 << 16)


@dataclass
class Origin:
    """An origin: each connection is answered after its first bytes, whatever they are.

    `heads` are the heads of all requests, unchanged.
    """

    port: int
    endless: bool
    heads: list[bytes] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def serve(self, server: socket.socket, over: socket.socket) -> None:
        """Serve until `over` becomes readable."""
        self._selector.register(server, selectors.EVENT_READ)
        self._selector.register(over, selectors.EVENT_READ)
        while True:
            for key, events in self._selector.select():
                if key.fileobj is over:
                    return
                self._serve_one(key.fileobj, server, events)

    def _serve_one(self, sock: object, server: socket.socket, events: int) -> None:
        assert isinstance(sock, socket.socket)
        if sock is server:
            peer, _ = server.accept()
            peer.setblocking(False)
            self._selector.register(peer, selectors.EVENT_READ)
        elif events & selectors.EVENT_READ:
            self._asked(sock)
        else:
            self._give(sock)

    def _asked(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if data := sock.recv(1 << 16):
                self.heads += [part for part in data.split(b"\r\n\r\n") if b" HTTP/1." in part]
                length = ENDLESS if self.endless else 3
                sock.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + b"ok\n")
                if self.endless:
                    self._selector.modify(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
                return
        self._end(sock)

    def _give(self, sock: socket.socket) -> None:
        try:
            sock.send(PART)
        except BlockingIOError:
            pass
        except OSError:
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()

    def close(self) -> None:
        """Close every connection."""
        for key in tuple(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


@contextmanager
def origin(port: int) -> Iterator[Origin]:
    """Run an origin that records requests, in a thread of this process."""
    ours, over = socket.socketpair()
    with listening_at(port) as server, ours, over:
        made = Origin(port, endless=False)
        thread = threading.Thread(target=made.serve, args=(server, over))
        thread.start()
        try:
            yield made
        finally:
            ours.send(b"!")
            thread.join()
            made.close()


@contextmanager
def endless_origin(room: Room, port: int) -> Iterator[None]:
    """Run an origin with endless responses, in the sandbox."""
    argv = [sys.executable, "-m", "tests.system.origins", str(port)]
    process = room.spawn_bare(argv, log=room.directory / "origin.log")
    try:
        eventually(lambda: listening(port), what="the origin listens")
        yield
    finally:
        process.kill()
        process.wait()


def listening_at(port: int) -> socket.socket:
    """Listen on loopback."""
    return socket.create_server(("127.0.0.1", port), backlog=1024)


def main(port: int) -> None:
    """Send without end until killed."""
    never, _ours = socket.socketpair()
    with listening_at(port) as server:
        Origin(port, endless=True).serve(server, never)


if __name__ == "__main__":
    main(int(sys.argv[1]))
