"""The recording of the demo: what a terminal shows becomes an SVG that any browser repeats."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from docs.recording import HERE, animation, frames

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: ET.Element) -> set[str]:
    """The texts of all rows of an animation."""
    return {"".join(row.itertext()).rstrip() for row in picture.iter(f"{SVG}text")}


def test_a_screen_is_recorded_with_its_colours() -> None:
    script = "print('\\x1b[1;31mred & <bold>\\x1b[0m plain', flush=True)"
    *_, (_, last) = frames([sys.executable, "-c", script], columns=30, rows=3)
    assert last[0].startswith('<tspan fill="#ff8f85" font-weight="bold">red &amp; &lt;bold&gt;</tspan>')
    assert "plain" in last[0]
    assert last[1:] == ("", "")


def test_what_replaces_a_screen_is_another_frame(tmp_path: Path) -> None:
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    script = f"print('one', flush=True); open({str(pipe)!r}).read(); print('\\x1b[2J\\x1b[Htwo', flush=True)"
    shown = []
    for at, frame in frames([sys.executable, "-c", script], columns=10, rows=2):
        if "one" in frame[0]:
            pipe.write_bytes(b"")  # it waits for this
        shown.append((at, frame))
    moments = [at for at, _ in shown]
    assert moments == sorted(moments)
    picture = ET.fromstring(animation(shown))
    assert {"one", "two"} <= texts(picture)
    assert len(picture.findall(f"{SVG}g")) == len(shown)


def test_a_command_that_fails_is_not_recorded() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        list(frames([sys.executable, "-c", "raise SystemExit(3)"]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_frame_is_shown_in_its_turn(count: int) -> None:
    shown = [(float(number), (f"<tspan>{number}</tspan>",)) for number in range(count)]
    picture = ET.fromstring(animation(shown, last=1.0))
    spans = []
    for animate in picture.iter(f"{SVG}animate"):
        assert animate.get("dur") == f"{count}.0s"
        values, moments = animate.attrib["values"].split(";"), [*map(float, animate.attrib["keyTimes"].split(";")), 1.0]
        at = values.index("inline")
        spans.append((round(moments[at] * count), round(moments[at + 1] * count)))
    assert spans == [(number, number + 1) for number in range(count)]


def test_the_recording_in_the_readme_is_of_a_run_without_a_failed_request() -> None:
    file = HERE / "demo.svg"
    assert f"docs/{file.name}" in (HERE.parent / "README.md").read_text(encoding="utf-8")
    assert file.stat().st_size < 600 << 10
    shown = texts(ET.parse(file).getroot())
    assert any("failed" in row for row in shown)
    assert any("rotations" in row for row in shown)
