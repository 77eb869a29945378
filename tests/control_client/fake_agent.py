"""An agent at a control socket that answers what it is told to, and a clock that is told the time."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

Hook = Callable[[], None]


@contextmanager
def answering(listener: socket.socket, *parts: bytes) -> Iterator[list[bytes]]:
    """Answer one client with these parts, and hang up."""
    with answering_each(listener, [parts]) as heard:
        yield heard


@contextmanager
def answering_each(listener: socket.socket, answers: Sequence[Sequence[bytes | Hook]]) -> Iterator[list[bytes]]:
    """Answer one client after the other, each with the parts of its answer, and hang up; call the hooks among them."""
    heard: list[bytes] = []

    def talk() -> None:
        with suppress(OSError):  # nobody came, or the client has left
            for parts in answers:
                client, _ = listener.accept()
                with client:
                    heard.append(client.recv(65536))
                    for part in parts:
                        client.sendall(part) if isinstance(part, bytes) else part()

    with listener:
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield heard
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def at_path(path: Path) -> socket.socket:
    """Listen at a Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


class Clock:
    """Stands in for the module `time`: it shows what it is told, and a sleep takes no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.on_sleep: Hook = lambda: None

    def monotonic(self) -> float:
        """Return the time it was told."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on, and let happen what happens meanwhile."""
        self.slept.append(round(seconds, 6))
        self.now += seconds
        self.on_sleep()

    def passes(self, seconds: float) -> Hook:
        """Return a hook that lets time pass."""

        def move_on() -> None:
            self.now += seconds

        return move_on
