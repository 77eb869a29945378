"""What one does without an agent: Envoys of one's own, replaced by hand. The other column of the table."""

import time
from pathlib import Path

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import first_answer
from tests.system.room import Process


class Restarter:
    """Runs a bare Envoy on the configuration of a bed and replaces it by the means Envoy's users have."""

    def __init__(self, bed: AgentFixture) -> None:
        self._bed = bed
        self._process = self._exec()
        first_answer(bed.tls)

    def _exec(self) -> Process:
        argv: list[str | Path] = [self._bed.binary, "-c", self._bed.config, "--disable-hot-restart"]
        return self._bed.room.spawn_bare([*argv, *self._bed.proxy_args], log=self._bed.directory / "bare.log")

    def replace(self) -> None:
        """Start a second Envoy on the same ports (SO_REUSEPORT) and end the first one once the second answers."""
        old, self._process = self._process, self._exec()
        self._bed.served()
        old.terminate()
        old.wait(timeout=15)

    def crash(self) -> float:
        """Kill the Envoy and start the next one at once; return the moment of the kill, on the monotonic clock."""
        killed = time.monotonic()
        self._process.kill()
        self._process.wait()
        self._process = self._exec()
        first_answer(self._bed.tls)
        return killed

    def stop(self) -> None:
        """Kill what runs."""
        self._process.kill()
        self._process.wait()
