"""What systemd is told, where it listens: ready, what goes on, and that the end has begun. See sd_notify(3)."""

import sdnotify


class ServiceManager:
    """Says nothing at all where there is no systemd."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._last = ""

    def status(self, sentence: str, *, ready: bool) -> None:
        """Tell what goes on, for `systemctl status`, and, once something serves, that the unit is up."""
        message = f"READY=1\nSTATUS={sentence}" if ready else f"STATUS={sentence}"
        if message != self._last:
            self._last = message
            self._notifier.notify(message)

    def stopping(self) -> None:
        """The unit is going down."""
        self._notifier.notify("STOPPING=1\nSTATUS=draining")
