import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.handoff.segment import HotRestartVersion
from agent.inputs import programs as module
from agent.inputs.programs import Programs
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.proxies.envoy.envoys import ENVOY, wants_envoy

PROXY = """#!/bin/sh
case "$1" in
--version) echo; echo "proxy  version: abcdef/{version}/Clean/RELEASE/BoringSSL"; echo ;;
--hot-restart-version) echo {handoff} ;;
esac
"""


def put(path: Path, version: str = "1.2.3", handoff: str = "11.104", text: str | None = None) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text if text is not None else PROXY.format(version=version, handoff=handoff))
    beside.chmod(0o755)
    beside.replace(path)


@asynccontextmanager
async def programs(path: Path) -> AsyncIterator[Programs]:
    made = Programs(path, Envoy(Flags(), 1.0), None)
    try:
        yield made
    finally:
        made.forget_unused(set())
        if made.current is not None:
            made.current.binary.close()


async def test_a_program_is_asked_what_it_is(tmp_path: Path) -> None:
    put(tmp_path / "proxy")
    async with programs(tmp_path / "proxy") as made:
        assert made.changed()
        assert await made.load()
        assert made.current is not None
        assert (made.current.version, made.current.handoff) == ("1.2.3", HotRestartVersion(11, 104))
        assert not made.changed()


@wants_envoy
async def test_the_real_envoy_is_known() -> None:
    assert ENVOY is not None
    async with programs(ENVOY) as made:
        await made.load()
        assert made.current is not None
        assert made.current.handoff == HotRestartVersion(11, 104)
        assert made.current.version.startswith("1.")


@pytest.mark.parametrize(
    ("version", "is_taken"), [("1.9.0", False), ("1.16.5", False), ("1.17.0", True), ("1.40.1-dev", True)]
)
async def test_an_envoy_that_is_too_old_is_named_as_such(tmp_path: Path, version: str, is_taken: bool) -> None:
    put(
        tmp_path / "proxy",
        text=PROXY.replace("abcdef", "0123456789abcdef0123456789abcdef01234567").format(
            version=version, handoff="11.104"
        ),
    )
    async with programs(tmp_path / "proxy") as made:
        if is_taken:
            assert await made.load()
            return
        with pytest.raises(BadInput, match=rf"it is Envoy {version}, and the agent needs 1\.17 or newer") as caught:
            await made.load()
        assert str(caught.value).endswith("by --proxy-kind")


async def test_a_version_in_other_words_is_taken_as_it_is(tmp_path: Path) -> None:
    put(tmp_path / "proxy", text='#!/bin/sh\n[ "$1" = --version ] && echo my proxy 7 || echo 11.104\n')
    async with programs(tmp_path / "proxy") as made:
        await made.load()
        assert made.current is not None
        assert made.current.version == "my proxy 7"


async def test_another_content_is_another_program_and_the_old_one_runs_until_it_is_unused(tmp_path: Path) -> None:
    put(tmp_path / "proxy")
    async with programs(tmp_path / "proxy") as made:
        await made.load()
        assert made.current is not None
        old = made.current.binary
        put(tmp_path / "proxy", version="2.0.0")
        assert made.changed()
        assert await made.load()
        assert made.current.version == "2.0.0"
        made.forget_unused({old.descriptor})
        assert b"1.2.3" in os.pread(old.descriptor, 1000, 0)
        made.forget_unused({made.current.binary.descriptor})
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(old.descriptor)


async def test_the_same_content_in_another_file_is_the_same_program(tmp_path: Path) -> None:
    put(tmp_path / "proxy")
    async with programs(tmp_path / "proxy") as made:
        await made.load()
        before = made.current
        put(tmp_path / "proxy")
        assert made.changed()
        assert not await made.load()
        assert made.current is before
        assert not made.changed()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nexit 3\n", "it exited with 3 when asked for its"),
        ("#!/bin/sh\necho disabled\n", "printed 'disabled'"),
        ("#!/bin/sh\necho 12.104\n", "it has version 12.104"),
        ("#!/bin/sh\n", "printed ''"),
        ("", "cannot start"),
        ("#!/no/such\n", "cannot start"),
        ("#!/bin/sh\nexec sleep 100\n", "did not end within"),
    ],
    ids=["fails", "disabled", "another protocol", "silent", "empty", "no interpreter", "hangs"],
)
async def test_a_program_that_cannot_be_used_is_said_once_and_the_good_one_stays(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT", 0.3)
    put(tmp_path / "proxy")
    async with programs(tmp_path / "proxy") as made:
        await made.load()
        before = made.current
        put(tmp_path / "proxy", text=text)
        with pytest.raises(BadInput, match=said) as caught:
            await made.load()
        assert str(caught.value).startswith(f"cannot use {tmp_path / 'proxy'}: ")
        assert ("agent restart" in str(caught.value)) is (said in {"cannot start", "did not end within"})
        assert made.current is before
        assert not made.changed()
        made.ask_again()
        assert made.changed()


async def test_a_program_that_is_gone_for_a_moment_is_no_change(tmp_path: Path) -> None:
    put(tmp_path / "proxy")
    async with programs(tmp_path / "proxy") as made:
        await made.load()
        (tmp_path / "proxy").unlink()
        assert not made.changed()


async def test_a_program_that_may_not_be_read_is_bad_input(ordinary: Path) -> None:
    put(ordinary / "proxy")
    (ordinary / "proxy").chmod(0o111)
    with pytest.raises(BadInput):
        await Programs(ordinary / "proxy", Envoy(Flags(), 1.0), None).load()


async def test_a_program_that_was_too_slow_is_tried_again_while_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT", 0.1)
    ready = tmp_path / "ready"
    slow = f'#!/bin/sh\n[ -e {ready} ] || exec sleep 100\n[ "$1" = --version ] && echo version: 1.2.3 || echo 11.104\n'
    put(tmp_path / "proxy", text=slow)
    async with programs(tmp_path / "proxy") as made:
        with pytest.raises(BadInput, match="did not end within"):
            await made.load()
        assert made.changed(), "the same file is looked at again"
        ready.touch()
        monkeypatch.setattr(module, "_PROBE_TIMEOUT", 10)
        await made.load()
        assert made.current is not None
        assert not made.changed()
