"""The parts of the service, for the modules that display it or act on it."""

from dataclasses import dataclass

from agent.core.reconciler import Reconciler
from agent.inputs.watch import InputWatcher
from agent.processes.process_table import ProcessTable


@dataclass(frozen=True, slots=True)
class Service:
    """The reconciler, the processes of its epochs, and the inputs they run from."""

    core: Reconciler
    processes: ProcessTable
    inputs: InputWatcher
