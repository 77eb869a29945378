"""The watcher on real files: it misses no relevant change, and unrelated changes cause no wake-up."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent.host import inotify
from agent.host.files import list_directory
from tests.host.signal_printer import SWAPS, publish, refuse_instance, replace, replace_link, watching_paths
from tests.system.eventually import PATIENCE


async def test_a_file_replaced_by_a_rename_is_reported_each_time(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_text("0")
    async with watching_paths(chain) as ear:
        await ear.hears_each(*(partial(replace, chain, str(n)) for n in range(SWAPS)))


async def test_a_file_written_in_place_is_reported_each_time(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    async with watching_paths(chain) as ear:
        await ear.hears_each(*[lambda: chain.write_text("anew")] * SWAPS)


async def test_a_file_replaced_by_a_hard_link_is_reported_each_time(tmp_path: Path) -> None:
    chain, other = tmp_path / "chain.pem", tmp_path / "elsewhere"
    other.write_text("content")

    def link() -> None:
        chain.unlink(missing_ok=True)
        chain.hardlink_to(other)

    async with watching_paths(chain) as ear:
        await ear.hears_each(*[link] * SWAPS)


async def test_a_file_removed_and_made_readable_is_reported(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_text("0")
    async with watching_paths(chain) as ear:
        await ear.hears_each(lambda: chain.chmod(0o000), lambda: chain.chmod(0o600), chain.unlink)


async def test_a_mounted_secret_is_followed_through_every_version(tmp_path: Path) -> None:
    volume = tmp_path / "certs"
    publish(volume, 0)
    async with watching_paths(volume) as ear:
        await ear.hears_each(*(partial(publish, volume, n) for n in range(1, SWAPS)))
        await ear.hears_each(lambda: (volume / "..data/tls.crt").write_text("in place, in the newest version"))


async def test_single_files_of_a_mounted_secret_are_followed_through_links_of_links(tmp_path: Path) -> None:
    volume, alias = tmp_path / "volumes" / "certs", tmp_path / "etc"
    publish(volume, 0)
    alias.symlink_to("volumes/../volumes/certs")
    async with watching_paths(alias / "tls.crt", alias / "tls.key") as ear:
        await ear.hears_each(*(partial(publish, volume, n) for n in range(1, SWAPS)))


async def test_a_link_far_up_the_path_is_followed_each_time_it_is_exchanged(tmp_path: Path) -> None:
    for version in range(SWAPS):
        (tmp_path / f"v{version}" / "a" / "b").mkdir(parents=True)
        (tmp_path / f"v{version}" / "a" / "b" / "chain.pem").write_text(str(version))
    current = tmp_path / "current"
    current.symlink_to("v0")
    async with watching_paths(current / "a" / "b" / "chain.pem") as ear:
        for version in range(1, SWAPS):
            newest = tmp_path / f"v{version}"
            await ear.hears_each(
                partial(replace_link, current, newest),
                partial((newest / "a" / "b" / "chain.pem").write_text, "anew"),
            )


async def test_a_directory_removed_and_created_again_is_followed_each_time(tmp_path: Path) -> None:
    certs = tmp_path / "deep" / "certs"
    certs.mkdir(parents=True)
    async with watching_paths(certs) as ear:
        for _ in range(SWAPS):
            await ear.hears_each(
                lambda: shutil.rmtree(tmp_path / "deep"),
                lambda: certs.mkdir(parents=True),
                lambda: (certs / "tls.crt").write_text("anew"),
            )


async def test_a_directory_moved_away_and_another_put_in_its_place_is_followed(tmp_path: Path) -> None:
    top, away = tmp_path / "top", tmp_path / "away"
    chain = top / "certs" / "chain.pem"
    chain.parent.mkdir(parents=True)
    async with watching_paths(chain) as ear:
        for _ in range(SWAPS):
            await ear.hears_each(
                lambda: top.rename(away),
                lambda: chain.parent.mkdir(parents=True),
                lambda: chain.write_text("anew"),
            )
            await ear.hush()
            (away / "certs" / "chain.pem").write_text("nobody looks here any more")
            assert await ear.hears_nothing()
            shutil.rmtree(away)


async def test_a_path_that_does_not_exist_yet_is_found_level_by_level(tmp_path: Path) -> None:
    chain = tmp_path / "a" / "b" / "c" / "chain.pem"
    async with watching_paths(chain) as ear:
        await ear.hears_each(*(parent.mkdir for parent in reversed(chain.parents[:3])), chain.touch)


async def test_a_whole_tree_that_appears_at_once_is_watched_to_its_end(tmp_path: Path) -> None:
    chain = tmp_path / "a" / "b" / "chain.pem"
    async with watching_paths(chain) as ear:
        chain.parent.mkdir(parents=True)  # no loop iteration between the two: no event reports the inner one
        await ear.hears()
        await ear.hears_each(lambda: chain.write_text("1"))


async def test_a_dangling_link_is_reported_when_its_target_comes(tmp_path: Path) -> None:
    chain, target = tmp_path / "chain.pem", tmp_path / "later" / "chain.pem"
    chain.symlink_to(target)
    async with watching_paths(chain) as ear:
        await ear.hears_each(target.parent.mkdir, target.touch)


async def test_links_that_lead_in_circles_end_and_are_still_watched(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    async with watching_paths(one) as ear:
        await ear.hears_each(lambda: replace(other, "a file now"), lambda: other.write_text("written through the link"))


async def test_entries_of_a_directory_come_and_go_and_those_of_its_sub_directories_do_not_count(tmp_path: Path) -> None:
    certs, elsewhere = tmp_path / "certs", tmp_path / "elsewhere"
    (certs / "below").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "real").touch()
    async with watching_paths(certs) as ear:
        await ear.hears_each(
            (certs / "fresh.pem").touch,
            lambda: (certs / "linked.pem").symlink_to(elsewhere / "real"),
            lambda: (elsewhere / "real").write_text("anew"),
            (certs / "linked.pem").unlink,
        )
        await ear.hush()
        (certs / "below" / "file").touch()
        (certs / ".hidden").touch()
        (elsewhere / "real").write_text("nothing leads here any more")
        assert await ear.hears_nothing()


async def test_a_thousand_other_files_in_the_directories_above_cause_no_wake_up(tmp_path: Path) -> None:
    chain = tmp_path / "certs" / "chain.pem"
    chain.parent.mkdir()
    chain.touch()
    async with watching_paths(chain) as ear:
        for number in range(1000):
            stranger = tmp_path / f"stranger-{number}"
            stranger.touch()
            stranger.rename(chain.parent / stranger.name)
            (chain.parent / stranger.name).unlink()
        assert await ear.hears_nothing()
        await ear.hears_each(lambda: chain.write_text("1"))


async def test_a_burst_is_one_report(tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    async with watching_paths(chain) as ear:
        for number in range(100):
            replace(chain, str(number))
        await ear.hush()
        for number in range(100):
            replace(chain, str(number))
        assert not await ear.hears_nothing()
        assert len(ear.changes) == 1


async def test_a_file_is_being_written_until_its_writer_closes_it(tmp_path: Path) -> None:
    certs, named = tmp_path / "certs", tmp_path / "named.pem"
    certs.mkdir()
    named.symlink_to("certs/chain.pem")
    async with watching_paths(certs, named) as ear:
        with (certs / "chain.pem").open("w") as writer:
            await ear.hush()
            writer.write("half")
            writer.flush()
            assert (await ear.hears()).writing == {str(certs / "chain.pem"), str(named)} == ear.watcher.writing
            waiting = asyncio.ensure_future(ear.watcher.settled([str(named)]))
            await ear.hush()
            assert not waiting.done()
        assert (await ear.hears()).writing == frozenset()
        await asyncio.wait_for(waiting, PATIENCE)


async def test_files_being_written_are_named_as_they_are_listed(tmp_path: Path) -> None:
    async with watching_paths() as ear:
        ear.watcher.watch([f"{tmp_path}/"])
        with (tmp_path / "chain.pem").open("w") as writer:
            writer.write("half")
            writer.flush()
            await ear.hears()
            assert sorted(ear.watcher.writing) == list_directory(f"{tmp_path}/")


async def test_a_name_that_nothing_can_have_is_watched_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify.Inotify, "__init__", refuse_instance)
    async with watching_paths(tmp_path / "nul\0", tmp_path / "chain.pem") as ear:
        await ear.hears_each((tmp_path / "chain.pem").touch)


def remove_directory(file: Path) -> None:
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("end", [Path.unlink, partial(replace, text="whole"), remove_directory])
async def test_a_writer_of_a_file_that_is_gone_is_not_waited_for(tmp_path: Path, end: Callable[[Path], object]) -> None:
    chain = tmp_path / "certs" / "chain.pem"
    chain.parent.mkdir()
    async with watching_paths(chain) as ear:
        with chain.open("w") as writer:
            writer.write("half")
            writer.flush()
            assert str(chain) in (await ear.hears()).writing
            end(chain)
            await ear.hush()
            writer.write("the other half")
            writer.flush()
            await ear.hush()
            assert not ear.watcher.writing
