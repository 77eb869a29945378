"""Hot restarts without an agent: Envoys replaced by hand, for the other column of the table."""

import time
from pathlib import Path

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import first_answer
from tests.system.room import Process


class Restarter:
    """Runs a bare Envoy with the configuration of an agent fixture and replaces it with Envoy's own means."""

    def __init__(self, instance: AgentFixture) -> None:
        self._instance = instance
        self._process = self._exec()
        first_answer(instance.tls)

    def _exec(self) -> Process:
        argv: list[str | Path] = [self._instance.binary, "-c", self._instance.config, "--disable-hot-restart"]
        return self._instance.room.spawn_bare(
            [*argv, *self._instance.proxy_args], log=self._instance.directory / "bare.log"
        )

    def replace(self) -> None:
        """Start a second Envoy on the same ports (SO_REUSEPORT) and end the first one when the second answers."""
        old, self._process = self._process, self._exec()
        self._instance.served()
        old.terminate()
        old.wait(timeout=15)

    def crash(self) -> float:
        """Kill the Envoy and start the next one at once; return the time of the kill (monotonic clock)."""
        killed = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._process = self._exec()
        first_answer(self._instance.tls)
        return killed

    def stop(self) -> None:
        """Kill the running Envoy."""
        self._process.kill()
        self._process.wait()
