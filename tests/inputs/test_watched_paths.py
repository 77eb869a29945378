"""What lies under --watch is part of a revision, whatever it is."""

import sys
from pathlib import Path

from agent.host.disk_thread import DiskThread
from agent.inputs.loader import Loader
from agent.inputs.programs import Programs
from agent.inputs.revisions import RevisionStore
from agent.inputs.settings import Settings
from tests.inputs.test_loader import KIND, write

SIDECAR = Path(sys.executable).with_name("sidecar")


async def test_any_change_there_is_another_revision_and_the_same_bytes_are_none(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    for name in ("certs", "watched"):
        (tmp_path / name).mkdir()
    write(tmp_path / "certs", "tls.crt", "tls.key")
    settings = Settings(
        proxy=str(SIDECAR),
        kind=KIND,
        certificates=(tmp_path / "certs",),
        config=None,
        watched=(watched,),
        run_directory=tmp_path / "run",
        listen="tcp://127.0.0.1:1",
        forward="tcp://127.0.0.1:2",
    )
    files, revisions = DiskThread(lambda: None, notice=lambda _: None), RevisionStore()
    programs = Programs(SIDECAR, KIND, None)
    loader = Loader(settings, programs, revisions, files)
    made = []
    for text in ("a", "b", "b", "a"):
        (watched / "geoip.db").write_text(text, encoding="ascii")
        result = await loader.load()
        assert result.loaded is not None
        made.append(result.loaded.revision)
    assert made[0] == made[3] != made[1] == made[2]
    revisions.keep_only(set())
    assert programs.current is not None
    programs.current.binary.close()
    await files.close()
