import asyncio
import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.certificates.contents import Contents
from agent.certificates.selection import LastGood, Selection, select_files
from agent.core.errors import BadInput, MachineError
from agent.core.revision import Revision
from agent.handoff.segment import HotRestartVersion
from agent.host import clock
from agent.host.binaries import Binary
from agent.host.carried import Carried
from agent.inputs import revisions
from agent.inputs.revisions import LoadedRevision, Program, RevisionStore, Source
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.envoy.push_contexts import PushMode
from tests.pki import Authority

TEXT = "a: {certificate_chain: {filename: /c/tls.crt}, private_key: {filename: /c/tls.key}}"
AUTHORITY = Authority.create("ca")


@pytest.fixture
def program() -> Iterator[Program]:
    descriptor = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
    yield Program(
        Binary(Path("/bin/sh"), descriptor, (1, 2, 3)), Envoy(Flags(), 1.0), "1.0", HotRestartVersion(11, 104)
    )
    os.close(descriptor)


def pair() -> Contents:
    leaf = AUTHORITY.issue(["a.test"])
    return {"/c/tls.crt": leaf.chain_pem, "/c/tls.key": leaf.key_pem}


def selection(contents: Contents, text: str = TEXT) -> Selection:
    return select_files(Configuration(text, "x.yaml").references, contents, LastGood(), clock.calendar())


def make(
    store: RevisionStore, program: Program, contents: Contents, text: str = TEXT, flags: Flags | None = None,
    extra: bytes = b"", resources: Mapping[str, bytes] | None = None,
) -> LoadedRevision:  # fmt: skip
    source = Source(Configuration(text, "x.yaml", None, resources), text.encode(), resources or {})
    program = program if flags is None else replace(program, kind=Envoy(flags, 1.0))
    return store.make(source, selection(contents, text), program, extra)


def test_the_same_bytes_are_the_same_material(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    assert make(store, program, contents) is make(store, program, contents)
    store.keep_only([])


def test_what_is_materialised_is_what_was_read(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    made = make(store, program, contents)
    for path, descriptor in made.descriptors.items():
        assert os.pread(descriptor, 100_000, 0) == contents[path]
    assert made.paths == {descriptor: path for path, descriptor in made.descriptors.items()}
    store.keep_only([])


def test_another_certificate_is_another_revision_of_the_same_shape(program: Program) -> None:
    store = RevisionStore()
    one, two = make(store, program, pair()).revision, make(store, program, pair()).revision
    assert one.digest != two.digest
    assert one.config_digest == two.config_digest
    store.keep_only([])


@pytest.mark.parametrize("change", [{"text": TEXT + " "}, {"flags": Flags(rest=("-l", "debug"))}, {"extra": b"x"}])
def test_everything_else_is_another_shape(program: Program, change: dict[str, object]) -> None:
    store, contents = RevisionStore(), pair()
    one = make(store, program, contents).revision
    assert make(store, program, contents, **change).revision.config_digest != one.config_digest  # type: ignore[arg-type]
    store.keep_only([])


LDS = "lds_config: {path_config_source: {path: /d/lds.yaml}}"


def test_a_file_of_resources_is_held_with_descriptors_in_the_place_of_files(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    made = make(store, program, contents, TEXT + "\n" + LDS, resources={"/d/lds.yaml": TEXT.encode()})
    held = json.loads(os.pread(made.descriptors["/d/lds.yaml"], 100_000, 0))
    assert held["a"]["private_key"]["filename"] == f"/dev/fd/{made.descriptors['/c/tls.key']}"
    assert made.paths[made.descriptors["/d/lds.yaml"]] == "/d/lds.yaml"
    store.keep_only([])
    for descriptor in made.descriptors.values():
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


def test_another_file_of_resources_is_another_shape(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    made = [
        make(store, program, contents, TEXT + "\n" + LDS, resources={"/d/lds.yaml": text}).revision
        for text in (b"a: 1", b"a: 2", b"a: 1")
    ]
    assert made[0] == made[2]
    assert made[0].config_digest != made[1].config_digest
    store.keep_only([])


def test_one_that_cannot_be_held_gives_back_what_was(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    store, contents, create = RevisionStore(), pair(), os.memfd_create
    before = len(list(Path("/proc/self/fd").iterdir()))
    made: list[int] = []

    def run_out(name: str, flags: int) -> int:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(create(name, flags))
        return made[0]

    monkeypatch.setattr(os, "memfd_create", run_out)
    with pytest.raises(MachineError, match="Too many open files"):
        make(store, program, contents)
    assert made
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    monkeypatch.setattr(os, "memfd_create", create)
    assert len(make(store, program, contents).descriptors) == 2, "the next load tries again"
    store.keep_only([])


def test_a_configuration_that_cannot_be_read_holds_nothing(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    before = len(list(Path("/proc/self/fd").iterdir()))
    bomb = "\n".join(["l0: &l0 [x, x]", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))])
    with pytest.raises(BadInput, match="aliases"):
        make(store, program, contents, TEXT + "\n" + LDS, resources={"/d/lds.yaml": bomb.encode()})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_revision_that_is_tried_stays_until_the_trial_ends(program: Program) -> None:
    store = RevisionStore()
    made = make(store, program, pair())
    with suppress(ZeroDivisionError), store.trying(made) as tried:
        store.keep_only([])
        assert store[tried.revision] is made
        for descriptor in made.descriptors.values():
            os.fstat(descriptor)
        raise ZeroDivisionError
    store.keep_only([])
    with pytest.raises(KeyError):
        store[made.revision]


def test_what_is_used_no_more_gives_its_memory_back_and_the_rest_stays(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    one = make(store, program, contents)
    two = make(store, program, contents, text=TEXT + " ")  # shares both files
    three = make(store, program, pair())
    store.keep_only([two.revision])
    assert store[two.revision] is two
    for descriptor in two.descriptors.values():
        os.fstat(descriptor)
    for descriptor in three.descriptors.values():
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
    with pytest.raises(KeyError):
        store[one.revision]
    store.keep_only([])


def descriptors() -> int:
    """Return the number of this process's open descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_new_files_are_held_without_a_long_silence_of_the_loop() -> None:
    store, turns = RevisionStore(), 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    before, files = descriptors(), {f"/c/{number}": f"{number}".encode() for number in range(500)}
    async with store.holding(files):
        assert turns >= len(files) * revisions._NEW / revisions._STEP - 1
        assert descriptors() == before + len(files)
        async with store.holding(files):
            again = turns
        assert turns == again, "files that are held already take no time"
        assert descriptors() == before + len(files)
    assert descriptors() == before
    counting.cancel()


async def test_a_revision_that_is_materialised_step_by_step_is_the_same_and_keeps_its_files(program: Program) -> None:
    store, contents = RevisionStore(), pair()
    source = Source(Configuration(TEXT, "x.yaml"), TEXT.encode())
    made = await store.materialise(source, selection(contents), program, b"more")
    assert made is make(store, program, contents, extra=b"more")
    for descriptor in made.descriptors.values():
        os.fstat(descriptor)
    store.keep_only([])


async def test_what_cannot_be_held_gives_back_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    store, before = RevisionStore(), descriptors()
    hold = store._memfds.hold

    def refuse(name: str, data: bytes) -> int:
        if data == b"second":
            raise MachineError("too many open files")
        return hold(name, data)

    monkeypatch.setattr(store._memfds, "hold", refuse)
    with pytest.raises(MachineError, match="too many"):
        async with store.holding({"/first": b"first", "/second": b"second"}):
            raise AssertionError
    assert descriptors() == before


def test_a_process_that_inherits_the_files_is_recognised_by_them(program: Program) -> None:
    store = RevisionStore()
    made = make(store, program, pair())
    assert made.carried == {path: Carried.of(made.descriptors[path]) for path in made.selection.files}
    store.keep_only([])


# Pushes


def listening(*contexts: str) -> str:
    """Return a bootstrap whose listener has a chain with each of these contexts."""
    chains = ", ".join(f"{{transport_socket: {{x: {{common_tls_context: {each}}}}}}}" for each in contexts)
    return f"static_resources: {{listeners: [{{name: l, filter_chains: [{chains}]}}]}}"


PAIR = "{tls_certificates: [{certificate_chain: {filename: /c/tls.crt}, private_key: {filename: /c/tls.key}}]}"
TICKET = PAIR.replace("]}", "], session_ticket_keys: {keys: [{filename: /c/ticket}]}}")


def pushing(store: RevisionStore, program: Program, contents: Contents, text: str) -> tuple[Revision, set[str]]:
    """Make a revision of a proxy that takes pushes; return it, and what can be pushed of it."""
    mode = PushMode(drains=True)
    program = replace(program, kind=Envoy(Flags(), 1.0, push=mode))
    source = Source(Configuration(text, "x.yaml", None, None, mode), text.encode())
    made = store.make(source, selection(contents, text), program, b"")
    return made.revision, set(made.pushable)


def test_a_new_pair_can_be_pushed_over_the_old_one(program: Program) -> None:
    store = RevisionStore()
    one, pushable = pushing(store, program, pair(), listening(PAIR))
    two, _ = pushing(store, program, pair(), listening(PAIR))
    assert pushable == {"/c/tls.crt", "/c/tls.key"}
    assert one != two
    assert two.can_be_pushed_over(one)
    store.keep_only([])


def test_what_else_changes_cannot_be_pushed(program: Program) -> None:
    store, contents = RevisionStore(), {**pair(), "/c/ticket": b"1"}
    one, pushable = pushing(store, program, contents, listening(TICKET))
    assert pushable == {"/c/tls.crt", "/c/tls.key"}
    for changed, text in (({**contents, "/c/ticket": b"2"}, listening(TICKET)), (contents, listening(TICKET) + " ")):
        other, _ = pushing(store, program, changed, text)
        assert other.push_base
        assert not other.can_be_pushed_over(one)
    store.keep_only([])


def test_without_pushes_there_is_no_base(program: Program) -> None:
    store = RevisionStore()
    made = make(store, program, pair(), listening(PAIR))
    assert (made.pushable, made.revision.push_base) == (frozenset(), "")
    store.keep_only([])


def test_a_group_is_pushed_whole_or_not_at_all(program: Program) -> None:
    """A new chain with the old key would be refused."""
    store = RevisionStore()
    text = listening(PAIR) + "\nother: {lua: {filename: /c/tls.key}}"
    revision, pushable = pushing(store, program, pair(), text)
    assert (pushable, revision.push_base) == (set(), "")
    store.keep_only([])


def test_files_that_are_no_certificates_are_not_pushed(program: Program) -> None:
    store = RevisionStore()
    text = listening("{tls_certificates: [{password: {filename: /c/password}}]}")
    revision, pushable = pushing(store, program, {"/c/password": b"x"}, text)
    assert (pushable, revision.push_base) == (set(), "")
    store.keep_only([])
