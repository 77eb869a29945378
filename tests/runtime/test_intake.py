"""The small bootstrap follows the files of a directory, whatever names they have while they are written."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.core.transaction import LastGood, weigh
from agent.host.watching import Watcher
from agent.runtime.intake import Intake
from agent.runtime.material import Material, Storeroom
from agent.runtime.programs import Programs
from agent.runtime.settings import Settings
from tests.pki import Authority, Leaf


def write(directory: Path, chain: str, key: str) -> None:
    """Put a new pair under these names."""
    leaf = Authority.create("ca").issue(["a.test"])
    (directory / chain).write_bytes(leaf.chain_pem)
    (directory / key).write_bytes(leaf.key_pem)


def write_itself(directory: Path, chain: str, key: str) -> None:
    """Put a new pair under these names whose certificate is its own authority, as `openssl req -x509` makes one."""
    authority = Authority.create("a.test")
    (directory / chain).write_bytes(authority.pem)
    (directory / key).write_bytes(Leaf(authority.certificate, authority.pem, authority.key).key_pem)


@contextmanager
def opened(directory: Path, configuration: Path | None = None) -> Iterator[Intake]:
    """An intake of this directory."""
    settings = Settings(
        proxy="/bin/true",
        certificates=(directory,),
        config=configuration,
        watched=(),
        run_directory=directory / "run",
        listen="tcp://127.0.0.1:1",
        forward="tcp://127.0.0.1:2",
    )
    watcher = Watcher(lambda _: None, notice=lambda _: None, loop=asyncio.get_running_loop())
    try:
        yield Intake(settings, Programs(Path("/bin/true"), None), Storeroom(), watcher)
    finally:
        watcher.close()


async def serve(intake: Intake, directory: Path) -> None:
    """Let what the directory holds have served."""
    references = (await intake.discover()).references
    contents = {each.path: Path(each.path).read_bytes() for each in references}
    outcome = weigh(references, contents, LastGood(), datetime.now(UTC))
    intake.serves(cast("Material", SimpleNamespace(outcome=outcome, source=None)))


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
async def test_an_empty_configuration_is_not_taken_for_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text(text)
    with opened(tmp_path, tmp_path / "envoy.yaml") as intake:
        look = await intake.look()
    assert look.material is None
    (message,) = [message for _, reason, message in intake.complaints() if reason == "configuration"]
    assert message == f"cannot read {tmp_path}/envoy.yaml: it is empty; write it"


async def test_names_of_a_write_under_way_are_forgotten_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as intake:
        write(tmp_path, "tls.crt", "tls.key")
        at_rest = await intake.small()
        write(tmp_path, "crt.new", "key.new")
        assert await intake.small() != at_rest
        (tmp_path / "crt.new").rename(tmp_path / "tls.crt")
        await intake.small()
        (tmp_path / "key.new").rename(tmp_path / "tls.key")
        assert await intake.small() == at_rest


async def test_a_certificate_of_its_own_authority_is_no_bundle_until_its_key_comes(tmp_path: Path) -> None:
    with opened(tmp_path) as intake:
        write_itself(tmp_path, "tls.crt", "tls.key")
        at_rest = await intake.small()
        await serve(intake, tmp_path)
        write_itself(tmp_path, ".crt", ".key")
        (tmp_path / ".crt").rename(tmp_path / "tls.crt")
        assert await intake.small() == at_rest
        (tmp_path / ".key").rename(tmp_path / "tls.key")
        assert await intake.small() == at_rest
