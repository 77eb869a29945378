"""The operator's whole configuration: the bootstrap file, and what `--config-yaml` adds to it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from agent.core.errors import BadInput
from agent.core.references import Reference
from agent.dialects.bootstrap import Bootstrap, Console, StaticListener, Template

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class Configuration:
    """The file's text and the extra document's, parsed. Raises `BadInput` naming the file, the line and the next step.

    Envoy itself merges the two, by protobuf's rules; the agent only has to know what both say.
    """

    def __init__(self, text: str, name: str, extra: str | None = None) -> None:
        suffix = PurePath(name).suffix
        if suffix not in _SUFFIXES:
            message = f"cannot read {name}: its suffix is {suffix or 'missing'}; the agent reads .yaml, .yml and .json"
            raise BadInput(message)
        self.name = name
        self._copies: dict[frozenset[str], Copies] = {}
        self._documents = [Bootstrap(text, name)]
        if extra is not None:
            self._documents.append(Bootstrap(extra, "--config-yaml"))

    @property
    def references(self) -> list[Reference]:
        """Every file that either document names."""
        return list(dict.fromkeys(each for document in self._documents for each in document.references))

    @property
    def listeners(self) -> list[StaticListener]:
        """Every static listener that binds."""
        return [each for document in self._documents for each in document.listeners]

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners come and go while it runs."""
        return any(document.has_dynamic_listeners for document in self._documents)

    @property
    def has_udp(self) -> bool:
        """Whether a static listener takes datagrams."""
        return any(listener.is_udp for listener in self.listeners)

    @property
    def files_by_xds(self) -> list[str]:
        """The files that resources come from while it runs."""
        return sorted({path for document in self._documents for path in document.files_by_xds})

    @property
    def console(self) -> Console | None:
        """The admin address, the later document's first, with the paths that either allows: as Envoy merges them."""
        addresses = [address for document in self._documents if (address := document.console_address) is not None]
        allowed = [path for document in self._documents for path in document.allowed_paths]
        return Console(addresses[-1], tuple(allowed)) if addresses else None

    @property
    def node(self) -> tuple[str | None, str | None]:
        """The node's id and cluster."""
        ids, clusters = zip(*(document.node for document in self._documents), strict=True)
        return next(filter(None, ids), None), next(filter(None, clusters), None)

    @property
    def has_log_format(self) -> bool:
        """Whether the application log's format stands in a document, so that a flag for it would be an error."""
        return any(document.has_log_format for document in self._documents)

    def copies(self, materialised: Collection[str]) -> "Copies":
        """The private copies in which these paths are descriptors; made once for the same paths."""
        key = frozenset(materialised)
        if key not in self._copies:
            main, *extra = self._documents
            also = extra[0].template(key, gated=False) if extra else None
            self._copies[key] = Copies(main.template(key, gated=True), also)
        return self._copies[key]


@dataclass(frozen=True, slots=True)
class Copies:
    """The private copy of the file, always YAML, and of the extra document."""

    main: Template
    extra: Template | None

    def fill(self, directory: str, number: int, descriptors: Mapping[str, int]) -> tuple[str, str | None]:
        """Both texts for one epoch."""
        extra = None if self.extra is None else self.extra.fill(directory, number, descriptors)
        return self.main.fill(directory, number, descriptors), extra
