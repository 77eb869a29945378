"""Pollers of the status server, in threads of their own, while a test runs."""

import json
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, Self

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.proxies import Console, Reply

Tree = dict[str, Any]  # JSON


class Onlooker:
    """Calls `look` at this interval during the block.

    Failures that `look` reports by an AssertionError are in `wrong`; any other exception than an OSError is raised at
    the end of the block. An OSError, from a call at a bad moment, counts as `unanswered`.
    """

    def __init__(self, look: Callable[[], object], every: float) -> None:
        self.looks = 0
        self.unanswered: list[str] = []
        self.wrong: list[str] = []
        self._look = look
        self._every = every
        self._over = Event()
        self._broke: Exception | None = None
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._broke is not None and kind is None:
            raise self._broke

    def _run(self) -> None:
        try:
            while not self._over.wait(self._every):
                self.look()
        except Exception as error:  # noqa: BLE001  # raised at the end of the block
            self._broke = error

    def once_more(self) -> None:
        """Wait for one more complete call."""
        before = self.looks
        eventually(lambda: self.looks >= before + 2, what="two more looks, the first of which may have begun before")

    def look(self) -> None:
        """Poll once."""
        try:
            self._look()
        except OSError as error:
            self.unanswered.append(repr(error))
        except AssertionError as error:
            self.wrong.append(str(error))
        self.looks += 1


def ask(instance: AgentFixture, path: str) -> Reply:
    """Send a request to the status server of an agent fixture; OSError if there is none."""
    return Console(instance.status.port).ask(path)


def overview(instance: AgentFixture) -> Tree:
    """Return the content of `/status`."""
    reply = ask(instance, "/status")
    assert reply.status == 200, f"/status: {reply.status} {reply.text}"
    tree: Tree = json.loads(reply.text)
    return tree
