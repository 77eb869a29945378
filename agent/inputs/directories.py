"""The files below `--certs`: trees of directories, each watched before its files are listed."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from agent.certificates.contents import Unreadable
from agent.host.disk_thread import DiskThread
from agent.inputs.finding_log import FindingLog

LEVELS = 3
"""How many directories deep certificates are found: enough for certbot's `live`, and for one of those per tenant."""

_NAMED = 3  # names listed in one message


class CertificateDirectories:
    """Lists the certificate directories, without the run directory.

    `watch` is called when `below`, all directories in them, has changed.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        run_directory: Path | None,
        disk: DiskThread,
        watch: Callable[[], Awaitable[None]],
        reports: FindingLog,
    ) -> None:
        self.below: list[str] = []
        self._paths = [str(path) for path in paths]
        self._run_directory = "" if run_directory is None else str(run_directory)
        self._disk = disk
        self._watch = watch
        self._reports = reports

    async def files(self) -> list[str]:
        """Return the files; log and skip names that are not UTF-8, and directories that are unreadable."""
        while True:
            trees = [await self._disk.tree(path, LEVELS, self._run_directory) for path in self._paths]
            readable = [tree for tree in trees if not isinstance(tree, Unreadable)]
            below = [directory for tree in readable for directory in tree.directories]
            if below == self.below:
                break
            self.below = below  # a file that is written from now on is noticed
            await self._watch()
        self._report_unreadable([f"{path}: {why}" for tree in readable for path, why in tree.unreadable.items()])
        return self._named([file for tree in readable for file in tree.files])

    def _report_unreadable(self, directories: Sequence[str]) -> None:
        text = f"cannot look for certificates in {', '.join(directories[:_NAMED])}; let the agent's user read it"
        self._reports.once("files.unreadable", text if directories else "")

    def _named(self, files: Sequence[str]) -> list[str]:
        odd = [path for path in files if not _is_text(path)]
        names = ", ".join(ascii(path) for path in odd[:_NAMED]) + (" and others" if len(odd) > _NAMED else "")
        text = f"ignored, since its name is not UTF-8: {names}; rename it" if odd else ""
        self._reports.once("files.odd_name", text)
        return [path for path in files if path not in odd]

    async def where(self) -> str:
        """Return the directories' names, with the reason for each that cannot be read."""
        listed = [(path, await self._disk.list(path)) for path in self._paths]
        return ", ".join(
            f"{path} ({entries.reason})" if isinstance(entries, Unreadable) else path for path, entries in listed
        )


def _is_text(path: str) -> bool:
    """Return whether a path is valid UTF-8; Python keeps other bytes as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
