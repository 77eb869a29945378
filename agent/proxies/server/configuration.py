"""What a server runs from: the pairs that its arguments and its configuration name, and a copy of the latter."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from agent.certificates.names import named
from agent.certificates.references import Reference, Role
from agent.core.errors import BadInput
from agent.proxies.interface import Delivery, StaticListener, TlsListener
from agent.proxies.server.listeners import Listener
from agent.proxies.server.placeholders import Placeholder, placeholders, replaced
from agent.proxies.standalone import StandaloneConfiguration

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_PAIRS = "proxy-agent-pairs"
_USUAL = (".crt", ".pem", ".cer")


class Configuration(StandaloneConfiguration):
    """The operator's configuration with placeholders, or the list of pairs in the directories of certificates.

    `given` are the listeners of --listen, in order. Raises `BadInput`.
    """

    def __init__(self, text: str, name: str, arguments: Iterable[str], given: Sequence[Listener]) -> None:
        super().__init__(name)
        self.text = text
        self.given = given
        self.arguments = tuple(arguments)
        self._pairs = _pairs_of(text)
        self.is_generated = self._pairs is not None
        self._copies: dict[frozenset[str], Copies] = {}
        in_text = () if self.is_generated else placeholders([text], of_configuration=True)
        self.used = list(dict.fromkeys([*placeholders(self.arguments), *in_text]))
        self.references = list(dict.fromkeys(self._references()))
        self.listeners = [
            StaticListener(each.place, reuse_port=each.is_tcp, dual_stack="[::]" in each.place.address)
            for each in given
        ]
        if any(each.kind == "cert" for each in self.used):
            self.tls_listeners = [TlsListener(each.place, None) for each in given if not each.is_plain]

    def path_of(self, placeholder: Placeholder) -> str:
        """Return the file that a placeholder stands for. Raises `BadInput` if there is no such pair."""
        if placeholder.is_path:
            return placeholder.name
        if self._pairs is None:
            message = f"cannot use {placeholder}: with --config it has to be the path of a file; write it with a slash"
            raise BadInput(message)
        return self._pairs[_name_in(self._pairs, placeholder)][placeholder.kind == "key"]

    def _references(self) -> Iterator[Reference]:
        certificates = [each for each in self.used if each.kind == "cert"]
        keys = [each for each in self.used if each.kind == "key"]
        unpaired = iter(keys)
        for certificate in certificates:
            chain = self.path_of(certificate)
            yield Reference(chain, Role.CHAIN, chain)
            key = next((each for each in keys if each.name == certificate.name), None) or next(unpaired, None)
            yield Reference(chain if key is None else self.path_of(key), Role.KEY, chain)
        for each in self.used:
            if each.kind == "file":
                yield Reference(each.name, Role.OTHER, each.name)

    # Copies

    def copies(self, materialised: Collection[str]) -> "Copies":
        """Return the copies in which these paths are descriptors, made once."""
        key = frozenset(materialised)
        if key not in self._copies:
            self._copies[key] = Copies(self, key)
        return self._copies[key]


class Copies:
    """The copy of a configuration, and the arguments, with descriptors for paths."""

    def __init__(self, configuration: Configuration, materialised: frozenset[str]) -> None:
        self._configuration = configuration
        self._materialised = materialised

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return an empty main document, and the arguments of one epoch as JSON."""
        del number, as_json
        arguments = [replaced(each, self._value(directory, descriptors)) for each in self._configuration.arguments]
        return "", json.dumps(arguments)

    def _value(self, directory: str, descriptors: Mapping[str, int]) -> Callable[[Placeholder], str]:
        names = [each.name for each in self._configuration.given]

        def value(placeholder: Placeholder) -> str:
            if placeholder.kind == "fd":
                return str(FIRST_DESCRIPTOR + names.index(placeholder.name))
            if placeholder.kind == "config":
                return f"{directory}/{self._document(directory, descriptors)[0]}"
            path = self._configuration.path_of(placeholder)
            return f"/dev/fd/{descriptors[path]}" if path in self._materialised else path

        return value

    def _document(self, directory: str, descriptors: Mapping[str, int]) -> tuple[str, bytes]:
        """Return the name and the content of the configuration's copy; the suffix of a name tells its format."""
        value = self._value(directory, descriptors)
        data = replaced(self._configuration.text, value, of_configuration=True).encode()
        return f"files-{hashlib.sha256(data).hexdigest()[:16]}/{PurePath(self._configuration.name).name}", data

    def fill_pushable(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool
    ) -> tuple[str, str | None, Delivery]:
        """Raise AssertionError: nothing is pushed into a server that the agent does not know."""
        raise AssertionError(directory, number, descriptors, as_json)

    def tree(self, directory: str, descriptors: Mapping[str, int]) -> Mapping[str, str | bytes]:
        """Return the copy of the configuration, if the arguments name it."""
        if self._configuration.is_generated or not any(each.kind == "config" for each in self._configuration.used):
            return {}
        name, data = self._document(directory, descriptors)
        return {name: data}

    def prepare(self, *, as_json: bool) -> None:
        """Do nothing: a copy is made in a moment."""

    def are_made(self, *, as_json: bool) -> bool:
        """Return True, see `prepare`."""
        del as_json
        return True

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add nothing."""


def listing(references: Iterable[Reference], used: Iterable[Placeholder]) -> str:
    """Return the list of the pairs that are used, which stands for a configuration, see `Configuration`.

    Raises `BadInput` if one of them does not exist.
    """
    pairs: dict[str, list[str]] = {}
    for each in references:
        if each.role in {Role.CHAIN, Role.KEY}:
            pairs.setdefault(each.group, ["", ""])[each.role is Role.KEY] = each.path
    found = {name: pairs[group] for group, name in named(pairs).items()}
    names = {each.name: _name_in(found, each) for each in used if each.kind in {"cert", "key"} and not each.is_path}
    return json.dumps({_PAIRS: {name: found[at] for name, at in names.items()}}, indent=1)


def _name_in(pairs: Collection[str], placeholder: Placeholder) -> str:
    """Return the name of the pair that a placeholder means. Raises `BadInput`."""
    name = placeholder.name
    if name in pairs:
        return name
    if not name and len(pairs) == 1:
        return next(iter(pairs))
    # Pairs that differ in their suffixes alone, as while one is being replaced, have their paths as names.
    same = [each for each in pairs if PurePath(each).stem == name and each.endswith(_USUAL)]
    if same:
        return same[0]
    known = ", ".join(sorted(pairs)) or "none"
    message = f"cannot use {placeholder}: there is no pair of that name in --certs; the names are: {known}"
    raise BadInput(message)


def _pairs_of(text: str) -> dict[str, tuple[str, str]] | None:
    """Return the pairs of a `listing` by name; None for a configuration of the operator's."""
    if not text.startswith("{") or _PAIRS not in text[:40]:
        return None
    return {name: (chain, key) for name, (chain, key) in json.loads(text)[_PAIRS].items()}
