"""Recovers what an earlier agent pushed into an epoch, from the epoch's own descriptors.

The manifest lists the slots, the state file which of them are in use. Unlike sealed files they could be changed, so
their contents count only if they have the digest that the state file holds.
"""

import hashlib
import os
from collections.abc import Collection, Mapping

from agent.certificates.contents import Contents
from agent.core.errors import BadInput
from agent.core.revision import Revision
from agent.host.memfds import digest_of
from agent.host.slots import Slots
from agent.processes.manifest import Manifest
from agent.processes.survivor import Survivor


def digest_of_files(files: Mapping[str, bytes], paths: Collection[str]) -> str:
    """Return one digest of the contents of these paths."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(f"{path}\0{digest_of(files[path])}\n".encode())
    return whole.hexdigest()


def revision_of(found: Survivor, manifest: Manifest) -> Revision:
    """Return the revision that an epoch runs: what was pushed last, or else the one it was started from."""
    if found.pushed is None:
        return manifest.revision
    return Revision(found.pushed.digest, manifest.shape, manifest.push_base)


def contents_of(found: Survivor, manifest: Manifest) -> Contents:
    """Return the files that an epoch runs from. Raises `MachineError`, or `BadInput` if a slot was changed."""
    used = _used(found, manifest)
    contents = {}
    for path, first in manifest.files.items():
        number = used.get(path, 0)
        contents[path] = _read(manifest.slots[path][number - 1].open(found.pid)) if number else first.read(found.pid)
    if found.pushed is not None and digest_of_files(contents, manifest.slots) != found.pushed.contents:
        message = f"cannot adopt the process {found.pid}: the certificates pushed into it were changed"
        raise BadInput(message)
    return contents


def regain_slots(found: Survivor, manifest: Manifest) -> Slots:
    """Open an epoch's slots for writing. Raises `MachineError`."""
    used, opened = _used(found, manifest), list[int]()
    files = {}
    try:
        for path, (one, two) in manifest.slots.items():
            for each in (one, two):
                opened.append(each.open(found.pid, os.O_RDWR))
            numbers = (manifest.files[path].descriptor, one.descriptor, two.descriptor)
            files[path] = (numbers, (opened[-2], opened[-1]), used.get(path, 0))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return Slots.regain(files)


def _used(found: Survivor, manifest: Manifest) -> dict[str, int]:
    digits = "" if found.pushed is None else found.pushed.used
    if digits and (len(digits) != len(manifest.slots) or set(digits) - set("012")):
        message = f"cannot adopt the process {found.pid}: the record of what was pushed into it is invalid"
        raise BadInput(message)
    return dict(zip(sorted(manifest.slots), map(int, digits), strict=False))


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
