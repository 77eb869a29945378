"""What systemd is told, where it listens, and the sockets that it keeps. See sd_notify(3).

Its socket is the one of sdnotify; what is sent goes by sendmsg, since descriptors travel beside the words.
"""

import array
import asyncio
import contextlib
import os
import re
import socket
import zlib

import sdnotify

from agent.host import clock
from agent.host.inherited_sockets import STORED

_SEND_TIMEOUT = 1.0  # a service manager that reads nothing for so long is told nothing
_EXTENSION = 60.0  # how much longer each message asks systemd to wait
_EXECUTION = 60.0  # for a program that this one becomes to turn its loop
_NAME_LIMIT = 200  # FDNAME has at most 255 characters


class ServiceManager:
    """Says nothing at all where there is no systemd. To be made inside a running loop, and closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = _connect()
        self._watched_for = _watchdog_span() if self._socket is not None else None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._sentence = ""
        self._is_ready = False
        self._is_reloading = False
        self._stored: dict[str, int] = {}  # inodes by name
        self._forget_earlier()
        if self._watched_for is not None:
            self._send(
                f"WATCHDOG_USEC={self._watched_for * 1e6:.0f}"
            )  # an agent that became this one may have changed it
            self._turn()

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    # Words

    def status(self, sentence: str) -> None:
        """Tell what goes on, for `systemctl status`."""
        if sentence != self._sentence:
            self._sentence = sentence
            self._send(f"STATUS={' '.join(sentence.split())}")

    def ready(self) -> None:
        """The unit is up, and whatever was being loaded is."""
        self._patience_ends()
        if not self._is_ready or self._is_reloading:
            self._is_ready, self._is_reloading = True, False
            self._send("READY=1")

    def reloading(self) -> None:
        """Something new is on its way to take over from what serves; `ready` ends this, however it went."""
        if not self._is_ready:
            self.ready()
        if not self._is_reloading:
            self._is_reloading = True
            self._send(f"RELOADING=1\nMONOTONIC_USEC={clock.monotonic() * 1e6:.0f}")

    def starting(self) -> None:
        """What the unit needs is not there yet: systemd waits for as long as the loop turns, until it is `ready`."""
        if not self._is_ready:
            self._wait_with_us()

    def stopping(self) -> None:
        """The unit is going down: systemd waits for as long as the loop turns."""
        self._send("STOPPING=1")
        self._wait_with_us()

    def _wait_with_us(self) -> None:
        if self._socket is not None and "patience" not in self._timers:
            self._ask_for_patience()

    def _ask_for_patience(self) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={_EXTENSION * 1e6:.0f}")
        self._timers["patience"] = self._loop.call_later(_EXTENSION / 2, self._ask_for_patience)

    def _patience_ends(self) -> None:
        timer = self._timers.pop("patience", None)
        if timer is not None:
            timer.cancel()

    # The watchdog

    def _turn(self) -> None:
        """Tell the watchdog that the loop turns: it is the loop that calls this."""
        assert self._watched_for is not None
        self._send("WATCHDOG=1")
        self._timers["watchdog"] = self._loop.call_later(self._watched_for / 2, self._turn)

    def executing(self) -> None:
        """This process is about to become another program, which needs a while until its own loop turns."""
        if self._watched_for is not None:
            self._send(f"WATCHDOG_USEC={max(self._watched_for, _EXECUTION) * 1e6:.0f}\nWATCHDOG=1")

    # Sockets

    def store(self, name: str, descriptor: int) -> None:
        """Have systemd keep a duplicate of a socket that listens, for the next agent; one that it has is no trouble.

        It drops by itself what refuses clients (EPOLLHUP), so that may have to be stored again.
        """
        if self._socket is None or not _listens(descriptor):
            return
        inode = os.fstat(descriptor).st_ino
        if self._stored.get(name, inode) != inode:
            self.remove(name)  # else the name would stand for both
        self._stored[name] = inode
        self._send(f"FDSTORE=1\nFDNAME={_fit(name)}", descriptor)

    def remove(self, name: str) -> None:
        """Have it let go what was stored under a name."""
        if self._stored.pop(name, None) is not None:
            self._send(f"FDSTOREREMOVE=1\nFDNAME={_fit(name)}")

    def _forget_earlier(self) -> None:
        """Have it let go what an earlier agent stored, and this one was given: what is still wanted is stored anew."""
        for name in os.environ.get("LISTEN_FDNAMES", "").split(":"):
            if STORED.match(name):
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    # The socket

    def _send(self, message: str, *descriptors: int) -> None:
        """Send one datagram. systemd that is gone, or deaf, is no reason to stop serving."""
        if self._socket is None:
            return
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with contextlib.suppress(OSError):
            self._socket.sendmsg([message.encode()], beside)

    def close(self) -> None:
        """Tell nothing any more; what is stored stays there."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connect() -> socket.socket | None:
    """The socket where systemd listens; it stays in the environment for a program that this one becomes."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    found: socket.socket | None = sdnotify.SystemdNotifier().socket
    if found is not None:
        found.settimeout(_SEND_TIMEOUT)
    return found


def _watchdog_span() -> float | None:
    """What sd_watchdog_enabled(3) allows between two messages, in seconds; None: nobody watches this process."""
    span, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not span.isdecimal() or int(span) == 0 or pid not in {None, str(os.getpid())}:
        return None
    return int(span) / 1e6


def _listens(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as seen:
        try:
            return bool(seen.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError:
            return False


def _fit(name: str) -> str:
    """A name as FDNAME may be (no colon, no slash, no control character), and no two names the same."""
    plain = re.sub(r"[^A-Za-z0-9._@\[\]-]+", "_", name)[:_NAME_LIMIT]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"
