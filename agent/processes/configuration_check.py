"""Checks the operator's files without starting a service, for `agent check` and `bootstrap`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent.certificates.x509 import Leaf
from agent.handoff.descriptors import discard
from agent.host.binaries import find
from agent.host.disk_thread import DiskThread
from agent.host.run_directory import RunDirectory
from agent.inputs.loader import Loader
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.inputs.settings import Settings
from agent.processes.epoch_process import EpochProcess, ListenerAccess
from agent.proxies.interface import Complaint

_TIMEOUT = 30.0
_DEAF = ListenerAccess(
    reached_gate=lambda _: None,
    serves=lambda _: None,
    exited=lambda _, __: None,
    held=lambda _, __: None,
    broken=lambda _, __: None,
    get_socket=lambda _, __: None,
    sockets=dict,
    bound=lambda _, __, descriptor: discard([descriptor]),
    is_serving=lambda: False,
)


@dataclass(frozen=True, slots=True)
class Report:
    """The findings as text lines, and whether a start would succeed. Rejections are in the log."""

    lines: tuple[str, ...]
    good: bool


async def inspect(settings: Settings) -> Report:
    """Check the files as a running agent would, and validate the configuration with the proxy."""
    async with _loader(settings) as loader:
        result = await loader.load()
        await loader.report_strays()
    if result.loaded is None:
        return Report((f"unusable: {', '.join(result.missing)}",), good=False)
    leaves = tuple(_line(group, leaf) for group, leaf in result.loaded.selection.leaves.items())
    complaint = await _complaint(settings, result.loaded)
    verdict = (
        "the proxy accepts it" if _may_be_asked(result.loaded) else "only a start shows whether the server accepts it"
    )
    if complaint is not None:
        what = "the arguments after --" if complaint.concerns_arguments else "it"
        verdict = f"{result.loaded.program.binary.path} refuses {what}: {complaint.text}"
    return Report((*leaves, verdict), good=complaint is None and not loader.reports.refusals)


async def small_bootstrap(settings: Settings) -> str:
    """Return the configuration that is generated when the operator provides none."""
    async with _loader(settings) as loader:
        return (await loader.small()).decode()


@asynccontextmanager
async def _loader(settings: Settings) -> AsyncIterator[Loader]:
    files = DiskThread(lambda: None, notice=lambda _: None)
    try:
        yield Loader(settings, Programs(find(settings.proxy), settings.kind, settings.user), RevisionStore(), files)
    finally:
        await files.close()


def _may_be_asked(loaded: LoadedRevision) -> bool:
    """Return whether there is a way to validate a configuration without a start."""
    return bool(loaded.program.kind.validate(0, None, loaded.configuration))


async def _complaint(settings: Settings, loaded: LoadedRevision) -> Complaint | None:
    directory = RunDirectory(settings.run_directory, traversable=settings.has_other_users)
    epoch = EpochProcess(1, loaded, directory, settings.user, _DEAF)
    try:
        return await epoch.validate(_TIMEOUT)
    finally:
        await epoch.cleanup()
        directory.close()


def _line(group: str, leaf: Leaf) -> str:
    names = ", ".join(leaf.names) or leaf.subject
    return f"{group}: {names}; serial {leaf.serial_hex}, {leaf.key_type}, until {leaf.not_after:%Y-%m-%d %H:%M}Z"
