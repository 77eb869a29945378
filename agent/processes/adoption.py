"""Adopts the running epochs of an earlier agent and removes its other leftovers.

The same mechanism serves after a crash, a restart and an upgrade of the agent. An epoch whose gate was opened may have
clients: it is adopted, with its sockets and its state. One before its gate has none: it is killed, and started again if
its revision is still desired. A process is identified by pid and start time together, so that no other process that
reuses the pid is affected.
"""

import contextlib
import logging
import os
import select
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.certificates.contents import Contents
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import AgentError, BadInput
from agent.handoff import binding
from agent.handoff.segment import HotRestartVersion, Segment
from agent.host import clock
from agent.host.binaries import opened_binary
from agent.host.log import log_event
from agent.host.removal import remove
from agent.host.run_directory import RunDirectory
from agent.inputs.revisions import LoadedRevision, Program, RevisionStore, Source
from agent.metrics.shared_counters import SharedCounters
from agent.processes import slot_recovery
from agent.processes.manifest import Manifest
from agent.processes.state_file import StateFile
from agent.processes.survivor import Survivor, find_survivor, pid_of
from agent.proxies.interface import Proxy

_END_TIMEOUT = 5.0


class Adoption:
    """Finds an earlier agent's epochs in the state file, once, before any process is started."""

    def __init__(
        self,
        kind: Proxy,
        state_file: StateFile,
        directory: RunDirectory,
        revisions: RevisionStore,
        shared_counters: SharedCounters,
    ) -> None:
        self._kind = kind
        self._state_file = state_file
        self._directory = directory
        self._revisions = revisions
        self._shared_counters = shared_counters

    def epochs(self) -> Iterator[tuple[Survivor, LoadedRevision]]:
        """Yield the adoptable epochs, the oldest first; then kill and remove the others.

        An entry is settled when the caller requests the next one.
        """
        rest: list[dict[str, Any]] = []
        for entry in sorted(self._state_file.inherited, key=lambda entry: str(entry.get("number")).zfill(20)):
            found = find_survivor(entry)
            if isinstance(found, Survivor) and (loaded := self._recover(found)) is not None:
                yield found, loaded
                self._state_file.settle(entry)
            else:
                rest.append(entry)
        for entry in rest:
            self._clear(entry)
            self._state_file.settle(entry)
        for segment in self._state_file.reserved:
            segment.release()

    def remove_stale(self, adopted: frozenset[int]) -> None:
        """Remove partly made sockets and exited epochs' directories; their counters are saved."""
        for path in [path for home in self._directory.homes for path in home.iterdir()]:
            if path.name.startswith(binding.PREFIX):
                remove(path)
            elif path.name.isascii() and path.name.isdecimal() and int(path.name) not in adopted:
                number = int(path.name)
                self._shared_counters.follow(number, path)
                self._shared_counters.retire(number)
                self._directory.remove_epoch(number)

    def _recover(self, found: Survivor) -> LoadedRevision | None:
        try:
            return recover(self._kind, found, self._revisions)
        except AgentError as error:
            text = f"epoch {found.number} (pid {found.pid}) cannot be adopted and is terminated: {error}"
            log_event(logging.ERROR, "epoch.not_adopted", text)
            return None

    @staticmethod
    def _clear(entry: Mapping[str, Any]) -> None:
        pid = clear(entry)
        if pid is not None:
            text = f"epoch {entry.get('number')} (pid {pid}) outlived its agent and has no clients: it is terminated"
            log_event(logging.WARNING, "epoch.left_over", text)


def clear(entry: Mapping[str, Any]) -> int | None:
    """Kill an entry's process, if it runs, and release its base id; return the killed pid."""
    base_id = entry.get("base_id")
    pid = pid_of(entry)  # checked again: the pid may have been reused since the entry was first examined
    if pid is not None:
        _end(entry, pid)
    if isinstance(base_id, int):
        Segment(base_id).release()
    return pid


def recover(kind: Proxy, found: Survivor, revisions: RevisionStore) -> LoadedRevision:
    """Rebuild an epoch's revision from the process's own descriptors. Raises `AgentError`."""
    manifest = Manifest.carried_by(found.pid, found.manifest)
    contents: Contents = slot_recovery.contents_of(found, manifest)
    resources = {path: text.encode() for path, text in manifest.resources.items()}
    configuration = kind.configuration(manifest.text, manifest.name, manifest.config_yaml, resources)
    program = _program(kind, manifest, found.pid)
    references = [each for each in configuration.references if each.path in contents]
    selection = select_files(references, contents, LastGood(), clock.calendar())
    source = Source(configuration, manifest.text.encode(), resources)
    loaded = None
    try:
        loaded = revisions.adopt(slot_recovery.revision_of(found, manifest), source, selection, program)
    finally:
        if loaded is None or loaded.program is not program:
            program.binary.close()  # another epoch of this revision was adopted before, with its own descriptor
    return loaded


def _program(kind: Proxy, manifest: Manifest, pid: int) -> Program:
    handoff = HotRestartVersion.parse(manifest.handoff) if manifest.handoff else None
    binary = opened_binary(Path(manifest.program_path), manifest.program.open(pid))
    if binary.identity != manifest.identity:
        binary.close()
        message = f"cannot adopt the process {pid}: its program {manifest.program_path} has been changed since"
        raise BadInput(message)
    return Program(binary, kind, manifest.program_version, handoff, manifest.reads_json)


def _end(entry: Mapping[str, Any], pid: int) -> None:
    """Send SIGKILL: on SIGTERM, Envoy would wait seconds for a parent that does not exist."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid_of(entry) == pid:  # checked after the pidfd is open: the pidfd cannot change its process
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _END_TIMEOUT)
        finally:
            os.close(pidfd)
