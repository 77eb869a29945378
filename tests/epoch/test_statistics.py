import logging
from pathlib import Path

import pytest

from agent.epoch.statistics import NONCE, NUMBER, Deltas, number, open_writer
from agent.stats.layout import ENVIRONMENT
from agent.stats.reader import Segment
from agent.stats.segment_file import reserve
from agent.stats.writer import Writer

NONCE_TEXT = "00112233445566778899aabbccddeeff"


def test_it_counts_where_the_agent_reads(tmp_path: Path) -> None:
    reserve(tmp_path / "stats")
    writer = open_writer({ENVIRONMENT: str(tmp_path / "stats"), NUMBER: "7", NONCE: NONCE_TEXT})
    writer.counter("requests").add(3)
    segment = Segment.open(tmp_path / "stats")
    assert (segment.header.epoch, segment.header.nonce) == (7, bytes.fromhex(NONCE_TEXT))
    assert segment.read().counters == {"requests": 3}
    segment.close()
    del writer


def test_without_an_agent_it_counts_for_itself() -> None:
    writer = open_writer({})
    writer.counter("requests").add()
    assert writer.read().counters == {"requests": 1}
    assert number({}) == number({NUMBER: "x"}) == 0


def test_a_missing_file_is_logged_and_does_not_end_the_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_writer({ENVIRONMENT: str(tmp_path / "stats"), NONCE: "no nonce"}).counter("requests").add()
    assert "only the admin interface shows the counters" in caplog.text


def test_a_successor_gets_the_counts_since_its_last_request() -> None:
    writer = Writer.private()
    deltas = Deltas(writer)
    writer.counter("requests").add(3)
    writer.counter("unused")
    writer.gauge("clients").set(2)
    writer.gauge("none").set(0)
    assert deltas.take() == ({"requests": 3}, {"clients": 2})
    writer.counter("requests").add(1)
    assert deltas.take() == ({"requests": 1}, {"clients": 2})
    assert deltas.take() == ({}, {"clients": 2})
