"""The cost of a kubelet's hooks: `python -m tests.benchmarks.bench_quick`.

Prints how long `agent wait` and `agent drain` take from a cold start to their end, with an agent that is ready and has
nothing to drain, beside a Python that does nothing and one that only imports click, in one run. All have their
bytecode, as an installed package has. The number of measurements is AGENT_MEASURED.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.system.counts import count

MEASURED = count("AGENT_MEASURED", short=20, long=100)

_AGENT = """
import asyncio, sys
from pathlib import Path
from tests.status.acting import Acting, controlled

async def main():
    async with controlled(Path(sys.argv[1]), Acting()):
        print("here", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
_ENTRY = "from agent.entry import main; main()"


@contextmanager
def agent_at(directory: str) -> Iterator[None]:
    """Run a control socket in this directory."""
    command = [sys.executable, "-c", _AGENT, directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


def seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command to its end; return its duration in seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure in turns, so that other load affects all alike."""
    with tempfile.TemporaryDirectory() as room, agent_at(room):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(room) / "bytecode")
        commands = {
            "python -c pass": ["-c", "pass"],
            "import click": ["-c", "import click"],
            "agent wait": ["-c", _ENTRY, "wait", "--run-dir", room],
            "agent drain": ["-c", _ENTRY, "drain", "--run-dir", room],
        }
        taken: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(MEASURED + 1):
            for what, command in commands.items():
                taken[what].append(seconds(command, environment))
    medians = {what: statistics.median(each[1:]) for what, each in taken.items()}  # the first run writes the bytecode
    for what, median in medians.items():
        sys.stdout.write(f"{what:16} {median * 1000:6.1f} ms {median / medians['python -c pass']:6.2f}\n")


if __name__ == "__main__":
    main()
