"""The files of a directory as far as they parse; those that did not change are not parsed again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from agent.certificates.contents import Contents, Unreadable, require
from agent.certificates.facts import CertificateFacts
from agent.certificates.findings import Rejection, Unusable
from agent.certificates.pem import PrivateKey, parse
from agent.certificates.x509 import Chain


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A parsed PEM file; `chain` is None if it holds no certificate."""

    key: PrivateKey | None
    chain: Chain | None

    @classmethod
    def of(cls, path: str, content: bytes) -> Self:
        """Parse a file. Raises `Unusable`."""
        pem = parse(path, content)
        return cls(pem.key, Chain.of(path, pem) if pem.certificates else None)

    @property
    def certificates(self) -> tuple[CertificateFacts, ...]:
        """Its certificates, in file order."""
        return () if self.chain is None else self.chain.certificates


Files = Mapping[str, ParsedFile]


@dataclass(frozen=True, slots=True)
class BrokenFiles:
    """Files that cannot be parsed: `foreign` ones without any PEM, and `damaged` ones."""

    damaged: tuple[Rejection, ...]
    foreign: tuple[Rejection, ...]


class ParsedFiles:
    """The parsed files of the last discovery: equal bytes at the same path are not parsed again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, ParsedFile | Rejection]] = {}

    def parse(self, contents: Contents) -> tuple[Files, BrokenFiles]:
        """Parse these contents, and forget all others."""
        files: dict[str, ParsedFile] = {}
        damaged, foreign = list[Rejection](), list[Rejection]()
        before, self._known = self._known, {}
        for path in sorted(contents):
            match self._parse(path, contents, before):
                case ParsedFile() as file:
                    files[path] = file
                case rejection:
                    (foreign if _is_foreign(contents[path]) else damaged).append(rejection)
        return files, BrokenFiles(tuple(damaged), tuple(foreign))

    def _parse(
        self, path: str, contents: Contents, before: Mapping[str, tuple[bytes, ParsedFile | Rejection]]
    ) -> ParsedFile | Rejection:
        try:
            content = require(contents, path)
        except Unusable as unusable:
            return Rejection.of(path, unusable)
        known = before.get(path)
        if known is None or known[0] != content:
            known = content, _parsed(path, content)
        self._known[path] = known
        return known[1]


def _parsed(path: str, content: bytes) -> ParsedFile | Rejection:
    try:
        return ParsedFile.of(path, content)
    except Unusable as unusable:
        return Rejection.of(path, unusable)


def _is_foreign(content: bytes | Unreadable) -> bool:
    return isinstance(content, bytes) and bool(content.strip()) and b"-----BEGIN" not in content
