"""The side of an epoch that takes pushes: its slots, and the delivery that its gate serves from."""

from collections.abc import Mapping
from pathlib import Path

from agent.host.slots import Slots
from agent.inputs.revisions import LoadedRevision
from agent.processes import slot_recovery
from agent.processes.manifest import Manifest
from agent.processes.survivor import Pushed, Survivor
from agent.proxies.interface import Admin, Delivery


class PushTarget:
    """Holds what can change in one epoch. `home` and `number` are the epoch's."""

    def __init__(self, slots: Slots, numbers: Mapping[str, int], contents: str = "") -> None:
        """Use these slots.

        `numbers`: the descriptors in the process of all files that it was started with. `contents`: the digest of what
        was pushed last.
        """
        self.slots = slots
        self.delivery: Delivery | None = None
        self.first_memory: int | None = None  # resident bytes when it began to serve
        self._numbers = numbers
        self._contents = contents

    @classmethod
    def make(cls, loaded: LoadedRevision) -> "PushTarget | None":
        """Make slots for what can be pushed; None if nothing can. Raises `MachineError`."""
        pushable = {path: loaded.descriptors[path] for path in loaded.pushable}
        return cls(Slots.make(pushable), loaded.descriptors) if pushable else None

    @classmethod
    def regain(cls, found: Survivor, loaded: LoadedRevision, home: Path) -> "PushTarget | None":
        """Take over an earlier agent's epoch; None if it takes no pushes. Raises `MachineError`."""
        if not loaded.pushable:
            return None
        manifest = Manifest.carried_by(found.pid, found.manifest)
        if manifest.slots.keys() != loaded.pushable:
            return None
        numbers = {path: each.descriptor for path, each in manifest.files.items()}
        contents = "" if found.pushed is None else found.pushed.contents
        target = cls(slot_recovery.regain_slots(found, manifest), numbers, contents)
        if not loaded.descriptors.keys() <= numbers.keys():
            return None
        *_, delivery = _filled(loaded, home, found.number, numbers)
        delivery.assume(target._offered, loaded.selection.files)
        target.delivery = delivery
        return target

    def fill(self, loaded: LoadedRevision, home: Path, number: int) -> tuple[str, str | None]:
        """Return the configuration and extra document to start the epoch with; the rest is delivered at its gate."""
        main, extra, delivery = _filled(loaded, home, number, loaded.descriptors)
        delivery.offer(self._offered, loaded.selection.files)
        self.delivery = delivery
        return main, extra

    @property
    def _offered(self) -> dict[str, int]:
        return {**self._numbers, **self.slots.offered}

    @property
    def paths(self) -> dict[int, str]:
        """The path that each descriptor of the process replaces."""
        return {number: path for path, number in self._numbers.items()} | self.slots.paths

    def write(self, loaded: LoadedRevision, before: LoadedRevision) -> None:
        """Write the files of a revision that differ from those `before` to free slots. Raises `MachineError`."""
        files, old = loaded.selection.files, before.selection.files
        self.slots.write({path: files[path] for path in loaded.pushable if files[path] != old[path]})

    async def deliver(self, admin: Admin, loaded: LoadedRevision, *, again: bool) -> None:
        """Send what the slots hold, and return when the process has applied it; see `Delivery.push`."""
        assert self.delivery is not None, "it is made before the process is started"
        await self.delivery.push(admin, self._offered, loaded.selection.files, again=again)

    def commit(self, loaded: LoadedRevision) -> None:
        """Record that the process runs this revision."""
        self.slots.commit()
        self._contents = slot_recovery.digest_of_files(loaded.selection.files, loaded.pushable)

    def pushed(self, loaded: LoadedRevision, *, is_torn: bool) -> Pushed | None:
        """Return what the next agent has to know of the pushes; None if there were none."""
        if not (is_torn or self._contents):
            return None
        if not self._contents:
            self._contents = slot_recovery.digest_of_files(loaded.selection.files, loaded.pushable)
        used = self.slots.used
        digits = "".join(str(used[path]) for path in sorted(used))
        return Pushed(loaded.revision.digest, digits, self._contents, is_torn)


def _filled(
    loaded: LoadedRevision, home: Path, number: int, descriptors: Mapping[str, int]
) -> tuple[str, str | None, Delivery]:
    """Return the documents and the delivery of an epoch in whose process files have these descriptors."""
    as_json = loaded.program.reads_json
    return loaded.copies.fill_pushable(str(home), number, descriptors, as_json=as_json)
