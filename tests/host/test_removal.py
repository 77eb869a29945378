"""A user's directory is removed with any content, and no file outside of it is."""

import os
import threading
from pathlib import Path

import pytest

from agent.host.removal import remove
from tests.system.eventually import eventually


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def test_files_links_pipes_and_directories_go_and_what_links_lead_to_stays(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (home / "file").touch()
    (home / "link").symlink_to(outside)
    (home / "down").mkdir()
    (home / "down" / "link").symlink_to(outside)
    os.mkfifo(home / "down" / "pipe")
    remove(home)
    assert not os.path.lexists(home)
    assert (outside / "file").read_text() == "kept"


def test_a_link_in_its_place_goes_and_what_it_leads_to_stays(home: Path, tmp_path: Path) -> None:
    (home / "file").touch()
    link = tmp_path / "link"
    link.symlink_to(home)
    remove(link)
    assert not os.path.lexists(link)
    assert (home / "file").exists()


def test_depth_costs_neither_stack_nor_descriptors(home: Path) -> None:
    """Deeper than the recursion limit and than the limit of descriptors."""
    at = os.open(home, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)  # longer than PATH_MAX
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    remove(home)
    eventually(lambda: not home.exists(), what="it is gone")


def test_what_is_more_than_an_epoch_leaves_goes_beside_the_caller(home: Path) -> None:
    for number in range(3000):
        (home / str(number)).touch()
    threads = threading.active_count()
    remove(home)
    eventually(lambda: not home.exists(), what="it is gone")
    eventually(lambda: threading.active_count() == threads, what="so is the thread")


def test_nothing_happens_if_it_is_gone(tmp_path: Path) -> None:
    remove(tmp_path / "nowhere")
