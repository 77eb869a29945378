"""An origin that sends zeros as fast as the peer reads them: `python -m tests.benchmarks.zeros PORT`."""

import contextlib
import socket
import sys
import threading

PART = bytes(1 << 20)


def give(peer: socket.socket) -> None:
    """Send zeros until the peer disconnects."""
    with peer, contextlib.suppress(OSError):
        while True:
            peer.sendall(PART)


def main(port: int) -> None:
    """Serve until killed."""
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            peer, _ = server.accept()
            threading.Thread(target=give, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
