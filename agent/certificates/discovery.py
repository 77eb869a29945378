"""What the files of a certificate directory are to one another, told by their content alone.

Names decide nothing but the order in which equals are taken, so `cert-chain.pem`/`key.pem`, `tls.crt`/`tls.key`,
certbot's four files, SPIFFE's numbered ones and all in one file are found by the same rules. Hidden names (`..data`)
are the caller's to leave out.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from pathlib import PurePath
from typing import Self

from agent.certificates.contents import Contents, Unreadable, require
from agent.certificates.findings import Fallback, Fault, FileWarning, Rejection, Unusable, WarningKind
from agent.certificates.pem import PemFile, parse
from agent.certificates.references import Reference, Role
from agent.certificates.x509 import Chain, Key, is_authority, issued_by, public_key_of, require_fit, require_valid


@dataclass(frozen=True, slots=True)
class _File:
    """A file with PEM in it; `chain` is None if there is no certificate."""

    pem: PemFile
    chain: Chain | None

    @classmethod
    def of(cls, path: str, content: bytes) -> Self:
        pem = parse(path, content)
        return cls(pem, Chain.of(path, pem) if pem.certificates else None)


_Files = Mapping[str, _File]


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found in a directory, each part in the order of its paths.

    `references` are pairs, whose unit is the chain's path, and bundles, each a unit of its own. `refused` is what must
    have been meant as half of a pair, and why it is none; `strays` are other files that nothing uses. `chains` holds
    those of the pairs, by unit.
    """

    references: tuple[Reference, ...]
    refused: tuple[Rejection, ...]
    strays: tuple[FileWarning, ...]
    look_again: datetime | None = None
    chains: Mapping[str, Chain] = field(default_factory=dict)

    def superseded(self, units: Collection[str], now: datetime) -> Iterator[Rejection]:
        """Yield why those of these pairs are not to be served that clients refuse `now`, and do not need.

        Another pair, which is valid, has their names and their kind of key: a proxy that has both may show either.
        """
        chains = [self.chains[unit] for unit in self.chains if unit in units]
        valid = [chain.leaf for chain in chains if chain.leaf.valid_at(now)]
        for chain in chains:
            if any(leaf.stands_in_for(chain.leaf) for leaf in valid):
                try:
                    require_valid(chain, now)
                except Unusable as unusable:
                    yield Rejection.of(chain.path, unusable, Fallback.OTHERS)


def discover(contents: Contents, now: datetime) -> Discovery:
    """Find pairs, bundles and strays among the files of a certificate directory; equal contents give equal results.

    Of several chains for one key one that is valid `now` is taken, then the newest, then the longest: certbot's
    `fullchain.pem`, not `cert.pem`. `look_again` is when another one may be. A bundle consists of authorities, one of
    them at least self-signed; intermediates alone are part of somebody's chain.
    """
    files, broken = _readable(contents)
    references = [*_pairs(files, now)]
    paired = {reference.path for reference in references}
    bundles = (path for path, file in files.items() if path not in paired and _is_bundle(file.pem))
    references += [Reference(path, Role.BUNDLE, path) for path in bundles]
    refused = tuple(_broken_pairs(files, broken, paired) if paired else _why_no_pair(files, broken))
    told = {_stem(each.path) for each in refused}
    strays = [*_strays(files, {each.path for each in references}), *map(FileWarning.of, broken.damaged)]
    beside = tuple(each for each in strays if _stem(each.path) not in told)
    chains = {path: chain for path in paired if (chain := files[path].chain) is not None}
    return Discovery(tuple(references), refused, beside, min(_turns(files, now), default=None), chains)


def _turns(files: _Files, now: datetime) -> Iterator[datetime]:
    """Yield the moments at which a chain becomes valid, and may be the one to take."""
    begins = (file.chain.leaf.not_before for file in files.values() if file.chain is not None)
    return (each for each in begins if each > now)


def strays(contents: Contents, references: Iterable[Reference]) -> tuple[FileWarning, ...]:
    """Find the files of a certificate directory that hold a leaf or a key which no referenced file holds.

    Copies (certbot's `cert.pem` beside its `fullchain.pem`), authorities and files without PEM are no strays.
    `contents` holds the referenced files too.
    """
    files, _ = _readable(contents)
    return tuple(_strays(files, {reference.path for reference in references}))


@dataclass(frozen=True, slots=True)
class _Broken:
    """What cannot be read: `foreign` are files without any PEM, which may well lie there, `damaged` all others."""

    damaged: tuple[Rejection, ...]
    foreign: tuple[Rejection, ...]


def _readable(contents: Contents) -> tuple[_Files, _Broken]:
    files: dict[str, _File] = {}
    damaged, foreign = list[Rejection](), list[Rejection]()
    for path in sorted(contents):
        try:
            files[path] = _File.of(path, require(contents, path))
        except Unusable as unusable:
            (foreign if _is_foreign(contents[path]) else damaged).append(Rejection.of(path, unusable))
    return files, _Broken(tuple(damaged), tuple(foreign))


def _is_foreign(content: bytes | Unreadable) -> bool:
    return isinstance(content, bytes) and bool(content.strip()) and b"-----BEGIN" not in content


def _stem(path: str) -> str:
    """What the names of files that belong together have in common, if any: `tls` of `tls.crt` and `tls.key`."""
    return str(PurePath(path).with_suffix(""))


def _pairs(files: _Files, now: datetime) -> Iterator[Reference]:
    """Yield chain and key of each pair, but not of an authority whose key lies beside the pairs that it issued."""
    chains, keys = _best_chains(files, now), _keys(files)
    pairs = [(chain, _nearest(chain, keys[public])) for public, chain in chains.items() if public in keys]
    for chain, key in sorted(pairs, key=lambda pair: pair[0].path):
        if not any(_issued(chain, other) for other, _ in pairs if other is not chain):
            yield Reference(chain.path, Role.CHAIN, chain.path)
            yield Reference(key, Role.KEY, chain.path)


def _best_chains(files: _Files, now: datetime) -> dict[bytes, Chain]:
    """Return for each public key the chain to serve with it, by rank, then the first by name."""
    chains: dict[bytes, Chain] = {}
    for file in files.values():
        public = public_key_of(file.chain.certificates[0]) if file.chain else None
        if file.chain and public and (public not in chains or _rank(file.chain, now) > _rank(chains[public], now)):
            chains[public] = file.chain
    return chains


def _rank(chain: Chain, now: datetime) -> tuple[bool, datetime, int]:
    return chain.leaf.valid_at(now), chain.leaf.not_before, len(chain.certificates)


def _keys(files: _Files) -> dict[bytes, list[str]]:
    keys: defaultdict[bytes, list[str]] = defaultdict(list)
    for path, file in files.items():
        if file.pem.key is not None and file.pem.key.public is not None:
            keys[file.pem.key.public].append(path)
    return keys


def _nearest(chain: Chain, keys: Iterable[str]) -> str:
    """Return the copy of the key in the chain's own file, then in its directory, then the first by name."""
    directory = PurePath(chain.path).parent
    return min(keys, key=lambda path: (path != chain.path, PurePath(path).parent != directory, path))


def _issued(authority: Chain, other: Chain) -> bool:
    return any(issued_by(certificate, authority.certificates[0]) for certificate in other.certificates)


def _why_no_pair(files: _Files, broken: _Broken) -> Iterator[Rejection]:
    """Tell whatever keeps there from being a pair, the likeliest first.

    Authorities, which need no key, are asked for one only where there is no other certificate. A half is not called
    missing when it is more likely there and cannot be read.
    """
    chains, keys = _halves(files, ())
    leaves = _leaves(chains)
    lonely = [Rejection.of(chain.path, _why_alone(chain, keys)) for chain in leaves or chains]
    if not chains:
        why = "the certificate that belongs to it is not here"
        lonely = [Rejection.of(key.path, Unusable(key.path, Fault.MISSING, why, "write it")) for key in keys]
    stems = {_stem(path) for path in (*files, *(each.path for each in broken.damaged))}
    near = [each for each in broken.foreign if _stem(each.path) in stems]
    unreadable = {_stem(each.path) for each in near}
    for each in lonely:
        if each.fault is not Fault.MISSING or not (broken.damaged or _stem(each.path) in unreadable):
            yield each
    yield from (*broken.damaged, *near)
    if not lonely and not broken.damaged:
        yield from broken.foreign


def _broken_pairs(files: _Files, broken: _Broken, paired: Collection[str]) -> Iterator[Rejection]:
    """Tell of the files whose names make them a pair beside the others, why they are none."""
    chains, keys = _halves(files, paired)
    leaves = _leaves(chains)
    for chain in leaves:
        own = [key for key in keys if _stem(key.path) == _stem(chain.path)]
        if own:
            yield Rejection.of(chain.path, _why_alone(chain, own), Fallback.OTHERS)
    paths = (*(leaf.path for leaf in leaves), *(key.path for key in keys), *(each.path for each in broken.damaged))
    stems = Counter(map(_stem, paths))
    for each in broken.damaged:
        if stems[_stem(each.path)] > 1:
            yield replace(each, meanwhile=Fallback.OTHERS)
    yield from (replace(each, meanwhile=Fallback.OTHERS) for each in broken.foreign if stems[_stem(each.path)])


def _halves(files: _Files, paired: Collection[str]) -> tuple[list[Chain], list[Key]]:
    """Return the chains and the keys that belong to nothing here, and are no copies of what does."""
    chains = {path: file.chain for path, file in files.items() if file.chain is not None}
    publics = {path: public_key_of(chain.certificates[0]) for path, chain in chains.items()}
    known = {public for path, public in publics.items() if path in paired}
    keys = [
        Key(path, file.pem.key)
        for path, file in files.items()
        if file.pem.key is not None and (file.pem.key.public is None or file.pem.key.public not in publics.values())
    ]
    return [chain for path, chain in chains.items() if publics[path] not in known], keys


def _leaves(chains: Iterable[Chain]) -> list[Chain]:
    """Return those that want a key: an authority needs none."""
    return [chain for chain in chains if not is_authority(chain.certificates[0])]


def _why_alone(chain: Chain, keys: Collection[Key]) -> Unusable:
    """What is wrong with the key that was probably meant: the one whose name has most in common with the chain's."""
    if not keys:
        return Unusable(chain.path, Fault.MISSING, "the private key that belongs to it is not here", "write it")
    key = max(keys, key=lambda key: _in_common(key.path, chain.path))
    if key.private.encrypted:
        return Unusable(key.path, Fault.UNPARSABLE, "it is encrypted", "write it without a password")
    try:
        require_fit(chain, key)
    except Unusable as unusable:
        return unusable
    why = "it issued another one here, and that one issued it"
    return Unusable(chain.path, Fault.MISMATCH, why, "leave the one that is to be served")


def _in_common(one: str, other: str) -> int:
    """With how many characters both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _is_bundle(pem: PemFile) -> bool:
    authorities = bool(pem.certificates) and all(map(is_authority, pem.certificates))
    return authorities and any(issued_by(certificate, certificate) for certificate in pem.certificates)


def _strays(files: _Files, used: Collection[str]) -> Iterator[FileWarning]:
    known = [files[path].pem for path in used if path in files]
    certificates = {certificate for pem in known for certificate in pem.certificates}
    keys = {pem.key.public for pem in known if pem.key is not None}
    for path, pem in ((path, file.pem) for path, file in files.items() if path not in used):
        if pem.key is not None and (pem.key.encrypted or pem.key.public not in keys):
            yield _stray(path, "an encrypted private key" if pem.key.encrypted else "a private key")
        elif any(each not in certificates and not is_authority(each) for each in pem.certificates):
            yield _stray(path, "a certificate")


def _stray(path: str, what: str) -> FileWarning:
    message = f"nothing uses {path}: it holds {what} that no file in use holds"
    return FileWarning(path, path, WarningKind.STRAY, f"{message}; remove it, or write or name what belongs to it")
