"""Finds pairs and bundles among the files of a certificate directory, by content alone.

File names only order equal candidates, so the same rules find `cert-chain.pem`/`key.pem`, `tls.crt`/`tls.key`,
certbot's four files, SPIFFE's numbered ones, and all in one file. The caller omits hidden names (`..data`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from pathlib import PurePath
from posixpath import dirname

from agent.certificates.contents import Contents
from agent.certificates.facts import CertificateFacts
from agent.certificates.findings import Fallback, Fault, FileWarning, Rejection, Unusable, WarningKind
from agent.certificates.parsed_files import BrokenFiles, Files, ParsedFiles
from agent.certificates.references import Reference, Role
from agent.certificates.x509 import Chain, Key, require_fit, require_valid


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of `discover`, each part in path order.

    `references` are pairs, each a group named by the chain's path, and bundles, each a group of its own. `refused` are
    files that were probably meant as half of a pair, with the reason why they are none; `strays` are other unused
    files. `chains` holds the chains of the pairs, by group. `look_again`: see `discover`.
    """

    references: tuple[Reference, ...]
    refused: tuple[Rejection, ...]
    strays: tuple[FileWarning, ...]
    look_again: datetime | None = None
    chains: Mapping[str, Chain] = field(default_factory=dict)

    def superseded(self, groups: Collection[str], now: datetime) -> Iterator[Rejection]:
        """Yield a rejection for each of these pairs that is not valid and has a valid substitute.

        The substitute has its names and its key type: a proxy with both might send either.
        """
        chains = [self.chains[group] for group in self.chains if group in groups]
        valid = [chain.leaf for chain in chains if chain.leaf.valid_at(now)]
        for chain in chains:
            try:
                require_valid(chain, now)
            except Unusable as unusable:
                if any(leaf.stands_in_for(chain.leaf) for leaf in valid):
                    yield Rejection.of(chain.path, unusable, Fallback.OTHERS)


def discover(contents: Contents, now: datetime, parsed: ParsedFiles | None = None) -> Discovery:
    """Find pairs, bundles and unused files in the contents of a certificate directory.

    Equal contents give equal results, whatever `parsed` holds from an earlier discovery. Of several chains for one key,
    a chain that is valid `now` is preferred, then the newest, then the longest: certbot's `fullchain.pem`, not
    `cert.pem`. `look_again` is when the choice may change. A bundle consists of authorities, at least one of them
    self-signed; intermediates alone are part of a chain.
    """
    files, broken = (parsed or ParsedFiles()).parse(contents)
    references = [*_pairs(files, now)]
    paired = {reference.path for reference in references}
    bundles = (path for path, file in files.items() if path not in paired and _is_bundle(file.certificates))
    references += [Reference(path, Role.BUNDLE, path) for path in bundles]
    refused = tuple(_broken_pairs(files, broken, paired) if paired else _why_no_pair(files, broken))
    told = {_stem(each.path) for each in refused}
    strays = [*_strays(files, {each.path for each in references}), *map(FileWarning.of, broken.damaged)]
    beside = tuple(each for each in strays if _stem(each.path) not in told)
    chains = {path: chain for path in paired if (chain := files[path].chain) is not None}
    return Discovery(tuple(references), refused, beside, min(_turns(files, now), default=None), chains)


def _turns(files: Files, now: datetime) -> Iterator[datetime]:
    """Yield the times at which a chain becomes valid, and may be preferred."""
    begins = (file.chain.leaf.not_before for file in files.values() if file.chain is not None)
    return (each for each in begins if each > now)


def strays(contents: Contents, references: Iterable[Reference]) -> tuple[FileWarning, ...]:
    """Find the files that hold a leaf or a key which no referenced file holds.

    Copies (certbot's `cert.pem` beside its `fullchain.pem`), authorities and files without PEM do not count.
    `contents` holds the referenced files too.
    """
    files, _ = ParsedFiles().parse(contents)
    return tuple(_strays(files, {reference.path for reference in references}))


def _stem(path: str) -> str:
    """Return the path without its suffix, by which files belong together: `tls` of `tls.key`."""
    return str(PurePath(path).with_suffix(""))


def _pairs(files: Files, now: datetime) -> Iterator[Reference]:
    """Yield the chain and key of each pair, except an authority that issued another pair here."""
    chains, keys = _best_chains(files, now), _keys(files)
    pairs = [(chain, _nearest(chain, keys[public])) for public, chain in chains.items() if public in keys]
    issued = _by_issuer(chain for chain, _ in pairs)
    for chain, key in sorted(pairs, key=lambda pair: pair[0].path):
        if not _has_issued(chain, issued):
            yield Reference(chain.path, Role.CHAIN, chain.path)
            yield Reference(key, Role.KEY, chain.path)


def _best_chains(files: Files, now: datetime) -> dict[bytes, Chain]:
    """Return the chain to serve for each public key: the highest rank, then the first by name."""
    chains: dict[bytes, Chain] = {}
    for file in files.values():
        public = _public(file.chain) if file.chain else None
        if file.chain and public and (public not in chains or _rank(file.chain, now) > _rank(chains[public], now)):
            chains[public] = file.chain
    return chains


def _rank(chain: Chain, now: datetime) -> tuple[bool, datetime, int]:
    return chain.leaf.valid_at(now), chain.leaf.not_before, len(chain.certificates)


def _keys(files: Files) -> dict[bytes, list[str]]:
    keys: defaultdict[bytes, list[str]] = defaultdict(list)
    for path, file in files.items():
        if file.key is not None and file.key.public is not None:
            keys[file.key.public].append(path)
    return keys


def _nearest(chain: Chain, keys: Iterable[str]) -> str:
    """Return the key in the chain's own file, else in its directory, else the first by name."""
    directory = dirname(chain.path)
    return min(keys, key=lambda path: (path != chain.path, dirname(path) != directory, path))


def _by_issuer(chains: Iterable[Chain]) -> Mapping[bytes, list[tuple[Chain, CertificateFacts]]]:
    """Return all certificates of these chains, by the name of their issuer."""
    found: defaultdict[bytes, list[tuple[Chain, CertificateFacts]]] = defaultdict(list)
    for chain in chains:
        for certificate in chain.certificates:
            found[certificate.issuer].append((chain, certificate))
    return found


def _has_issued(chain: Chain, issued: Mapping[bytes, list[tuple[Chain, CertificateFacts]]]) -> bool:
    """Return whether the first certificate of a chain issued one of another chain."""
    authority = chain.certificates[0]
    others = issued.get(authority.subject, ())
    return any(certificate.issued_by(authority) for other, certificate in others if other is not chain)


def _why_no_pair(files: Files, broken: BrokenFiles) -> Iterator[Rejection]:
    """Yield the reasons why there is no pair, the likeliest first.

    A missing key is reported for authorities, which need none, only if there is no other certificate. A half is not
    reported missing if an unreadable file is likely to hold it.
    """
    chains, keys = _halves(files, ())
    leaves = _leaves(chains)
    fitting = _keys(files)
    lonely = [
        Rejection.of(chain.path, _why_none_is_served(chain) if _public(chain) in fitting else _why_alone(chain, keys))
        for chain in leaves or chains
    ]
    if not chains:
        why = "its certificate is missing"
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


def _broken_pairs(files: Files, broken: BrokenFiles, paired: Collection[str]) -> Iterator[Rejection]:
    """Yield why files that belong together by name, beside the good pairs, are no pair."""
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


def _halves(files: Files, paired: Collection[str]) -> tuple[list[Chain], list[Key]]:
    """Return the chains and keys that match nothing here and are no copies of paired ones."""
    chains = {path: file.chain for path, file in files.items() if file.chain is not None}
    publics = {path: _public(chain) for path, chain in chains.items()}
    known, certified = {public for path, public in publics.items() if path in paired}, set(publics.values())
    keys = [
        Key(path, file.key)
        for path, file in files.items()
        if file.key is not None and (file.key.public is None or file.key.public not in certified)
    ]
    return [chain for path, chain in chains.items() if publics[path] not in known], keys


def _leaves(chains: Iterable[Chain]) -> list[Chain]:
    """Return the chains that need a key, which are those not of an authority."""
    return [chain for chain in chains if not chain.certificates[0].is_authority]


def _why_alone(chain: Chain, keys: Collection[Key]) -> Unusable:
    """Return what is wrong with the chain's likely key: the one with the most similar name."""
    if not keys:
        return Unusable(chain.path, Fault.MISSING, "its private key is missing", "write it")
    key = max(keys, key=lambda key: _in_common(key.path, chain.path))
    if key.private.encrypted:
        return Unusable(key.path, Fault.UNPARSABLE, "it is encrypted", "write it without a password")
    try:
        require_fit(chain, key)
    except Unusable as unusable:
        return unusable
    why = f"its key, and that in {key.path}, are of a kind that cannot be compared"
    return Unusable(chain.path, Fault.UNPARSABLE, why, "use RSA, ECDSA on a NIST curve, or Ed25519")


def _why_none_is_served(chain: Chain) -> Unusable:
    """Return why a chain whose key is here is no pair."""
    why = "it and another certificate here issued each other"
    return Unusable(chain.path, Fault.MISMATCH, why, "keep only the certificate to serve")


def _public(chain: Chain) -> bytes | None:
    return chain.certificates[0].public_key


def _in_common(one: str, other: str) -> int:
    """Return the length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _is_bundle(certificates: Collection[CertificateFacts]) -> bool:
    authorities = bool(certificates) and all(each.is_authority for each in certificates)
    return authorities and any(each.issued_by(each) for each in certificates)


def _strays(files: Files, used: Collection[str]) -> Iterator[FileWarning]:
    known = [files[path] for path in used if path in files]
    certificates = {certificate for file in known for certificate in file.certificates}
    keys = {file.key.public for file in known if file.key is not None}
    for path, file in ((path, file) for path, file in files.items() if path not in used):
        if file.key is not None and (file.key.encrypted or file.key.public not in keys):
            yield _stray(path, "an encrypted private key" if file.key.encrypted else "a private key")
        elif any(each not in certificates and not each.is_authority for each in file.certificates):
            yield _stray(path, "a certificate")


def _stray(path: str, what: str) -> FileWarning:
    message = f"{path} is not used: it holds {what} that no file in use holds"
    return FileWarning(path, path, WarningKind.STRAY, f"{message}; remove it, or write or name its counterpart")
