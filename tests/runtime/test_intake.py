"""The small bootstrap follows the files of a directory, whatever names they have while they are written."""

import asyncio
from pathlib import Path

from agent.host.watching import Watcher
from agent.runtime.intake import Intake
from agent.runtime.material import Storeroom
from agent.runtime.programs import Programs
from agent.runtime.settings import Settings
from tests.pki import Authority


def write(directory: Path, chain: str, key: str) -> None:
    """Put a new pair under these names."""
    leaf = Authority.create("ca").issue(["a.test"])
    (directory / chain).write_bytes(leaf.chain_pem)
    (directory / key).write_bytes(leaf.key_pem)


async def test_names_of_a_write_under_way_are_forgotten_with_it(tmp_path: Path) -> None:
    settings = Settings(
        proxy="/bin/true",
        certificates=(tmp_path,),
        config=None,
        watched=(),
        run_directory=tmp_path / "run",
        listen="tcp://127.0.0.1:1",
        forward="tcp://127.0.0.1:2",
    )
    watcher = Watcher(lambda _: None, notice=lambda _: None, loop=asyncio.get_running_loop())
    intake = Intake(settings, Programs(Path("/bin/true"), None), Storeroom(), watcher)
    try:
        write(tmp_path, "tls.crt", "tls.key")
        at_rest = await intake.small()
        write(tmp_path, "crt.new", "key.new")
        assert await intake.small() != at_rest
        (tmp_path / "crt.new").rename(tmp_path / "tls.crt")
        await intake.small()
        (tmp_path / "key.new").rename(tmp_path / "tls.key")
        assert await intake.small() == at_rest
    finally:
        watcher.close()
