"""systemd notifications: status, watchdog and file descriptor store. See sd_notify(3).

sdnotify opens the socket; messages are sent with sendmsg, because some carry descriptors.
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

_SEND_TIMEOUT = 1.0  # seconds until a message is dropped if systemd does not read
_EXTENSION = 60.0  # seconds by which each message extends systemd's timeout
_EXECUTION = 60.0  # watchdog seconds for an executed successor to start its loop
_NAME_LIMIT = 200  # FDNAME has at most 255 characters


class ServiceManager:
    """Sends notifications to systemd, if it is there.

    Construct it inside a running loop, and close it.
    """

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
        """Whether there is a notification socket."""
        return self._socket is not None

    # Status

    def status(self, sentence: str) -> None:
        """Send a status text for `systemctl status`, if it is new."""
        if sentence != self._sentence:
            self._sentence = sentence
            self._send(f"STATUS={' '.join(sentence.split())}")

    def ready(self) -> None:
        """Report that the service is up, and that a reload has finished."""
        self._patience_ends()
        if not self._is_ready or self._is_reloading:
            self._is_ready, self._is_reloading = True, False
            self._send("READY=1")

    def reloading(self) -> None:
        """Report that a rotation is in progress; `ready` ends this, whatever the result."""
        if not self._is_ready:
            self.ready()
        if not self._is_reloading:
            self._is_reloading = True
            self._send(f"RELOADING=1\nMONOTONIC_USEC={clock.monotonic() * 1e6:.0f}")

    def starting(self) -> None:
        """Extend systemd's start timeout while the loop runs, until `ready`."""
        if not self._is_ready:
            self._wait_with_us()

    def stopping(self) -> None:
        """Report shutdown, and extend systemd's stop timeout while the loop runs."""
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
        """Send the watchdog's keep-alive; called by the loop, so it proves that the loop runs."""
        assert self._watched_for is not None
        self._send("WATCHDOG=1")
        self._timers["watchdog"] = self._loop.call_later(self._watched_for / 2, self._turn)

    def executing(self) -> None:
        """Extend the watchdog before an exec, for the time until the new program's loop runs."""
        if self._watched_for is not None:
            self._send(f"WATCHDOG_USEC={max(self._watched_for, _EXECUTION) * 1e6:.0f}\nWATCHDOG=1")

    # Sockets

    def store(self, name: str, descriptor: int) -> None:
        """Store a duplicate of a listening socket in systemd, for the next agent.

        Storing the same one again is harmless, and may be needed: systemd drops a socket on EPOLLHUP, which refuses
        clients.
        """
        if self._socket is None or not _listens(descriptor):
            return
        inode = os.fstat(descriptor).st_ino
        if self._stored.get(name, inode) != inode:
            self.remove(name)  # otherwise the name would refer to both
        self._stored[name] = inode
        self._send(f"FDSTORE=1\nFDNAME={_fit(name)}", descriptor)

    def remove(self, name: str) -> None:
        """Remove the socket stored under a name."""
        if self._stored.pop(name, None) is not None:
            self._send(f"FDSTOREREMOVE=1\nFDNAME={_fit(name)}")

    def _forget_earlier(self) -> None:
        """Remove the sockets stored by an earlier agent; those still needed are stored again."""
        for name in os.environ.get("LISTEN_FDNAMES", "").split(":"):
            if STORED.match(name):
                self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    # The socket

    def _send(self, message: str, *descriptors: int) -> None:
        """Send one datagram; errors are ignored, since serving does not depend on systemd."""
        if self._socket is None:
            return
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with contextlib.suppress(OSError):
            self._socket.sendmsg([message.encode()], beside)

    def close(self) -> None:
        """Stop sending; stored sockets stay in systemd."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _connect() -> socket.socket | None:
    """Return systemd's notification socket, if any.

    NOTIFY_SOCKET stays in the environment for an executed successor.
    """
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    found: socket.socket | None = sdnotify.SystemdNotifier().socket
    if found is not None:
        found.settimeout(_SEND_TIMEOUT)
    return found


def _watchdog_span() -> float | None:
    """Return the watchdog interval in seconds (sd_watchdog_enabled(3)); None if disabled."""
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
    """Return a unique valid FDNAME for a name: no colon, slash or control character."""
    plain = re.sub(r"[^A-Za-z0-9._@\[\]-]+", "_", name)[:_NAME_LIMIT]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"
