"""The parsers agree with Envoy about valid and invalid files; the exceptions are listed here."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import BadInput
from agent.proxies.envoy.configuration import Configuration
from tests.pki import Authority
from tests.system import spellings
from tests.system.bootstrap import Bootstrap, Secured
from tests.system.room import Room
from tests.system.spellings_of_configurations import of_json, of_yaml

pytestmark = pytest.mark.long

HALF_WRITTEN = {
    "chain: a damaged block before",
    "chain: a cut block after",
    "key: a damaged block before",
    "bundle: a damaged block before",
    "bundle: a cut block after",
}
"""Accepted by Envoy, and refused here on purpose, as the documentation states: half of a write."""

OTHER_LETTERS = {
    "YAML in utf-16",
    "YAML in utf-32",
    "YAML in latin-1",
    "YAML with a version to come",
    "YAML with an unknown directive",
    "YAML with a line end of 1978",
    "YAML '[1,,2]'",
    "YAML '[,1]'",
}
"""The same for configurations: Envoy would parse another value than intended, or none."""


@pytest.fixture(scope="module")
def pki() -> tuple[Authority, Authority]:
    """A root and its certificates."""
    root = Authority.create("root")
    return root, root.intermediate("middle")


def validates(room: Room, envoy: Path, number: int, config: Path) -> bool:
    """Let Envoy validate a configuration."""
    log = room.directory / f"{number}.log"
    ran = room.spawn([envoy, "-c", config, "--mode", "validate", "-l", "error"], log=log)
    return ran.wait(timeout=60) == 0


def disagreements(found: Iterable[tuple[str, bool, bool]]) -> dict[str, str]:
    """Return the differences."""
    return {name: f"ours {ours}, Envoy {theirs}" for name, ours, theirs in found if ours != theirs}


def pem_files(root: Authority, middle: Authority) -> Iterator[tuple[str, bytes, bytes, bytes]]:
    """Yield chain, key and bundle, one of them in every spelling."""
    leaf, other, rsa = middle.issue(["a.test"]), root.issue(["b.test"]), root.issue(["r.test"], "rsa")
    for name, chain in spellings.of_chains(leaf, middle, root):
        yield f"chain: {name}", chain, leaf.key_pem, root.pem
    for name, key in spellings.of_keys(leaf, other):
        yield f"key: {name}", leaf.chain_pem, key, root.pem
    for name, key in spellings.of_rsa_keys(rsa):
        yield f"key: {name}", rsa.chain_pem, key, root.pem
    for name, bundle in spellings.of_bundles(root, leaf, middle):
        yield f"bundle: {name}", leaf.chain_pem, leaf.key_pem, bundle


def is_taken(chain: bytes, key: bytes, bundle: bytes) -> bool:
    """Check them as in a rotation."""
    references = [Reference("c", Role.CHAIN, "c"), Reference("k", Role.KEY, "c"), Reference("b", Role.BUNDLE, "b")]
    contents = {"c": chain, "k": key, "b": bundle}
    return select_files(references, contents, LastGood(), datetime.now(UTC)).complete


def test_pem_files_are_read_as_envoy_reads_them(room: Room, envoy: Path, pki: tuple[Authority, Authority]) -> None:
    def judged(numbered: tuple[int, tuple[str, bytes, bytes, bytes]]) -> tuple[str, bool, bool]:
        number, (name, *contents) = numbered
        home = room.directory / str(number)
        home.mkdir()
        chain, key, bundle = (home / each for each in ("c", "k", "b"))
        for path, content in zip((chain, key, bundle), contents, strict=True):
            path.write_bytes(content)
        Bootstrap(1, 2, [Secured(chain, key, trusted=bundle)]).write(home / "envoy.yaml")
        return name, is_taken(*contents), validates(room, envoy, number, home / "envoy.yaml")

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(judged, enumerate(pem_files(*pki))))
    assert len(found) > 300
    differing = disagreements(found)
    assert differing.keys() == HALF_WRITTEN, differing
    assert sum(ours for _, ours, _ in found) > 100, "many are taken"


def test_configurations_are_read_as_envoy_reads_them(room: Room, envoy: Path) -> None:
    """Envoy validates both the file and the copy that an epoch would get."""

    def judged(numbered: tuple[int, tuple[str, bytes]]) -> tuple[str, bool, bool]:
        number, (name, content) = numbered
        kind = "json" if number >= first_json else "yaml"
        path, copy = room.directory / f"{number}.{kind}", room.directory / f"{number}.copy.json"
        path.write_bytes(content)
        ours = False
        with suppress(BadInput, UnicodeDecodeError):
            text, _ = Configuration(content.decode(), str(path)).copies([]).fill("/tmp/x", 1, {}, as_json=True)
            copy.write_text(text, encoding="utf-8")
            ours = validates(room, envoy, -number - 1, copy)
        return name, ours, validates(room, envoy, number, path)

    yaml = list(of_yaml())
    first_json = len(yaml)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(judged, enumerate([*yaml, *of_json()])))
    assert len(found) > 150
    differing = disagreements(found)
    assert differing.keys() == OTHER_LETTERS, differing
    assert sum(ours for _, ours, _ in found) > 60, "many are taken"
