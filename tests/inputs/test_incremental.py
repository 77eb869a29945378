"""Whatever changes, a loader that has read the files before makes what a new one makes."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agent.host import known_files
from agent.inputs.loader import Loader, LoadResult
from agent.inputs.revisions import Source
from tests.inputs.test_loader import KIND, configured, opened
from tests.pki import FROM, Authority

FILES = ("certs/a.crt", "certs/a.key", "certs/b.crt", "certs/b.key", "certs/ca.crt", "others/x")
KINDS = ("first", "second", "key of first", "key of second", "both", "expired", "authority", "garbage", "")
DOCUMENTS = ("a", "ab", "b", "garbage")
_stamps = itertools.count(1_700_000_000_000_000_001)

Step = tuple[dict[str, str], str, bool]
"""The contents that files get, the document, and whether the result serves."""

steps = st.tuples(
    st.dictionaries(st.sampled_from(FILES), st.sampled_from(KINDS), max_size=4),
    st.sampled_from(DOCUMENTS),
    st.booleans(),
)


@cache
def content(kind: str) -> bytes:
    """Return one of the contents that a file may have; each is made once."""
    ca = authority()
    expired = ca.issue(["a.test"], not_before=FROM, not_after=FROM.replace(year=2021))
    first, second = content_of("first"), content_of("second")
    return {
        "first": first[0],
        "second": second[0],
        "key of first": first[1],
        "key of second": second[1],
        "both": b"".join(second),
        "expired": expired.chain_pem + expired.key_pem,
        "authority": ca.pem,
        "garbage": b"garbage",
    }[kind]


@cache
def authority() -> Authority:
    return Authority.create("ca")


@cache
def content_of(_: str) -> tuple[bytes, bytes]:
    """Return a certificate and its key."""
    leaf = authority().issue(["a.test"])
    return leaf.chain_pem, leaf.key_pem


@pytest.fixture(scope="module", autouse=True)
def believed_at_once() -> Iterator[None]:
    """Believe the status of a file at its second read; `put` gives each write a time of its own."""
    patched = pytest.MonkeyPatch()
    patched.setattr(known_files, "SETTLED", 0.0)
    yield
    patched.undo()


def put(path: Path, kind: str) -> None:
    """Write a file, or remove it."""
    path.unlink(missing_ok=True)
    if kind:
        path.write_bytes(content(kind))
        os.utime(path, ns=(next(_stamps), next(_stamps)))


def document(directory: Path, kind: str) -> None:
    """Write the operator's document."""
    path = configured(directory / "certs", *kind) if kind != "garbage" else directory / "certs" / "envoy.yaml"
    if kind == "garbage":
        path.write_text("[", encoding="ascii")
    os.utime(path, ns=(next(_stamps), next(_stamps)))


class Pair:
    """A loader that goes on, and for each load a new one with the same past."""

    def __init__(self, directory: Path, *, named: bool) -> None:
        self._directory = directory
        self._configuration = directory / "certs" / "envoy.yaml" if named else None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._loader = await self._new(self._stack)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _new(self, stack: AsyncExitStack) -> Loader:
        certs, others = self._directory / "certs", self._directory / "others"
        return await stack.enter_async_context(opened(certs, self._configuration, watched=(others,)))

    async def compare(self, *, serves: bool) -> None:
        """Load with both and compare."""
        async with AsyncExitStack() as stack:
            fresh = await self._new(stack)
            self._give_past(fresh)
            expected, found = await fresh.load(), await self._loader.load()
            if fresh.selection is None:  # there is no configuration, and the selection of an earlier one stays
                self._loader.selection = None
            assert facts(self._loader, found) == facts(fresh, expected)
            again = await self._loader.load()
            assert facts(self._loader, again) == facts(fresh, expected)
            assert again.loaded is found.loaded
        if serves and again.loaded is not None:
            self._loader.serves(again.loaded)

    def _give_past(self, fresh: Loader) -> None:
        """Give a new loader what has served and the last configuration that was usable, parsed anew."""
        known = self._loader
        fresh._last_good, fresh._served = known._last_good, known._served
        fresh._pairing.found = list(known._pairing.found)
        if known._source is not None:
            text, name = known._source.text, known._source.configuration.name
            fresh._source = Source(KIND.configuration(text.decode(), name), text)


def facts(loader: Loader, result: LoadResult) -> tuple[object, ...]:
    """Return what is to be equal in two results; equal bytes are one revision, so its own findings may be older."""
    loaded = result.loaded
    made = None if loaded is None else (loaded.revision, loaded.selection.files, loaded.source.text)
    return made, loader.selection, result.missing, result.refused


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])  # shrinking would take minutes
@given(st.lists(steps, min_size=2, max_size=6), st.booleans())
def test_an_incremental_load_equals_one_from_scratch(changes: list[Step], named: bool) -> None:
    async def play() -> None:
        with TemporaryDirectory() as name:
            directory = Path(name)
            for each in ("certs", "others"):
                (directory / each).mkdir()
            async with Pair(directory, named=named) as pair:
                for files, kind, serves in changes:
                    for path, what in files.items():
                        put(directory / path, what)
                    if named:
                        document(directory, kind)
                    await pair.compare(serves=serves)

    asyncio.run(play())
