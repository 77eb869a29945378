"""Envoy accepts what we accept; we refuse what Envoy refuses; and what only we refuse is reported as not supported.

The default run compares some of the documents, with AGENT_LONG=1 all.
"""

import json
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.proxies.envoy.envoys import run, wants_envoy
from tests.sidecar import cases_texts
from tests.sidecar.cases_refused import refused
from tests.sidecar.cases_taken import taken
from tests.sidecar.cases_unsupported import unsupported
from tests.sidecar.patches import Case, bootstrap, patched, write_files

pytestmark = wants_envoy

SOME = None if os.environ.get("AGENT_LONG") else 5


def taken_by_envoy(directory: Path, texts: Sequence[str]) -> list[bool]:
    """Check each document by itself."""

    def ask(number: int) -> bool:
        path = directory / f"{number}.yaml"
        path.write_text(texts[number])
        return run(["--mode", "validate", "-c", str(path), "-l", "off", "--disable-hot-restart"])[0] == 0

    with ThreadPoolExecutor(2) as askers:
        return list(askers.map(ask, range(len(texts))))


def some(found: list[Case]) -> list[Case]:
    return found if SOME is None else random.sample(found, SOME)


@pytest.mark.parametrize(
    ("cases", "expected"),
    [(taken, True), (unsupported, True), (refused, False)],
    ids=["taken", "unsupported", "refused"],
)
def test_envoy_does_the_same(tmp_path: Path, cases: Callable[[Path], list[Case]], expected: bool) -> None:
    write_files(tmp_path)
    tree = bootstrap(tmp_path)
    chosen = some(cases(tmp_path))
    answers = taken_by_envoy(tmp_path, [json.dumps(patched(tree, *case)) for case in chosen])
    assert [case for case, answer in zip(chosen, answers, strict=True) if answer is not expected] == []


@pytest.mark.parametrize(("texts", "expected"), [(cases_texts.TAKEN, True), (cases_texts.REFUSED, False)])
def test_envoy_reads_yaml_in_the_same_way(tmp_path: Path, texts: list[str], expected: bool) -> None:
    chosen = texts if SOME is None else random.sample(texts, SOME)
    answers = taken_by_envoy(tmp_path, chosen)
    assert [text for text, answer in zip(chosen, answers, strict=True) if answer is not expected] == []
