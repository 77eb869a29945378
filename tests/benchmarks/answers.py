"""How long a status server keeps a client waiting: `python -m tests.benchmarks.answers PORT`.

Asks /healthz/live every 5 ms over one connection. Each line on standard input is answered with the longest wait since
the last one, in seconds.
"""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EVERY = 0.005
_REQUEST = b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Waits:
    """A process that asks a status server; a process of its own, so that no work of the benchmark delays it."""

    process: subprocess.Popen[str]

    def longest(self) -> float:
        """Return the longest wait for an answer since the last call, in seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextmanager
def asking(port: int) -> Iterator[Waits]:
    """Ask the status server at this port during the block."""
    command = [sys.executable, "-m", "tests.benchmarks.answers", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        waits = Waits(process)
        try:
            waits.longest()
            yield waits
        finally:
            process.kill()


def _ask(sock: socket.socket) -> float:
    """Ask once; return the seconds until the answer begins."""
    began = time.monotonic()
    sock.sendall(_REQUEST)
    if not sock.recv(1 << 16):
        raise ConnectionResetError
    return time.monotonic() - began


def main(port: int) -> None:
    """Ask until standard input ends; a connection that the server closes is opened again."""
    longest = 0.0
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as sock:
                while True:
                    longest = max(longest, _ask(sock))
                    if select.select([sys.stdin], [], [], EVERY)[0]:
                        if not sys.stdin.readline():
                            return
                        sys.stdout.write(f"{longest}\n")
                        sys.stdout.flush()
                        longest = 0.0
        except ConnectionError:
            continue


if __name__ == "__main__":
    main(int(sys.argv[1]))
