"""Onlookers: they ask the status server again and again, in a thread of their own, while a test does something."""

import json
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, Self

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.proxies import Console, Reply

Tree = dict[str, Any]  # JSON


class Onlooker:
    """Calls `look` every so many seconds for as long as the context lasts.

    What `look` finds wrong, by an AssertionError, is in `wrong`; any other exception than an OSError is raised at the
    end of the context. A look that began at a bad moment for asking (an OSError) counts as `unanswered`.
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
        except Exception as error:  # noqa: BLE001  # it is raised where it is seen
            self._broke = error

    def once_more(self) -> None:
        """Wait until it has looked once more, from beginning to end."""
        before = self.looks
        eventually(lambda: self.looks >= before + 2, what="two more looks, the first of which may have begun before")

    def look(self) -> None:
        """Look once."""
        try:
            self._look()
        except OSError as error:
            self.unanswered.append(repr(error))
        except AssertionError as error:
            self.wrong.append(str(error))
        self.looks += 1


def ask(bed: AgentFixture, path: str) -> Reply:
    """Ask the status server of a bed; OSError while there is none."""
    return Console(bed.status.port).ask(path)


def overview(bed: AgentFixture) -> Tree:
    """Read what `/status` tells."""
    reply = ask(bed, "/status")
    assert reply.status == 200, f"/status: {reply.status} {reply.text}"
    tree: Tree = json.loads(reply.text)
    return tree
