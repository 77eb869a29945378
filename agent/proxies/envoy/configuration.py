"""The operator's whole configuration: bootstrap, `--config-yaml` document, resource files.

A resource file is one that a document names as a source (`path_config_source`): listeners, clusters, secrets …
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property, partial
from pathlib import PurePath
from typing import TypeVar

from agent.certificates.references import Reference
from agent.core.errors import BadInput
from agent.proxies.envoy.bootstrap import Bootstrap
from agent.proxies.envoy.delivery import Delivery
from agent.proxies.envoy.document import Document, ResourceFile, Template
from agent.proxies.envoy.push_contexts import PushMode
from agent.proxies.envoy.push_form import PushForm
from agent.proxies.envoy.subscriptions import scope_of
from agent.proxies.interface import AdminAddress, StaticListener, Subscription

_T = TypeVar("_T", str, Reference, StaticListener)
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class Configuration:
    """The parsed bootstrap, extra document and resource files.

    `resources` is path to content, for the files read so far: see `unread`. Raises `BadInput` naming the file, the line
    and the next step. Envoy itself merges bootstrap and extra document, by protobuf's rules; the agent only collects
    their contents.
    """

    def __init__(
        self,
        text: str,
        name: str,
        extra: str | None = None,
        resources: Mapping[str, bytes] | None = None,
        push: PushMode | None = None,
    ) -> None:
        suffix = PurePath(name).suffix
        if suffix not in _SUFFIXES:
            message = f"cannot read {name}: its suffix is {suffix or 'missing'}; the agent reads .yaml, .yml and .json"
            raise BadInput(message)
        self.name = name
        self.extra = extra
        self._push = push
        self._copies: dict[frozenset[str], Copies] = {}
        self._bootstraps = [Bootstrap(text, name, push=push)]
        if extra is not None:
            self._bootstraps.append(Bootstrap(extra, "--config-yaml", gated=False))
        self._resources = {path: ResourceFile(_decoded(data, path), path) for path, data in (resources or {}).items()}
        self._order = tuple(self._innermost_first())
        self.references = self._found(lambda document: document.references)
        """Every file that a document names."""
        self.listeners = self._found(lambda document: document.listeners)
        """Every listener that binds and that a document names."""
        self.protobuf_sources = sorted(self._found(lambda document: document.protobuf_sources))
        """The resource files that only Envoy can read, and so watches by itself."""
        self.control_planes = self._found(lambda document: list(document.control_planes))
        """The control planes that deliver resources: names of clusters, or Google gRPC targets."""
        self.secret_sources = {name: path for each in self._documents for name, path in each.secret_sources.items()}
        """The resource file of each secret that comes from one, by name."""

    @property
    def _documents(self) -> list[Document]:
        return [*self._bootstraps, *self._resources.values()]

    def _found(self, look: Callable[[Document], list[_T]]) -> list[_T]:
        """Return the results of `look` for all documents in order, without duplicates."""
        return list(dict.fromkeys(each for document in self._documents for each in look(document)))

    def address_of(self, control_plane: str) -> str | None:
        """Return host and port, or the path, of a control plane as configured; None if the documents have none."""
        found = (each.control_planes.get(control_plane) for each in self._documents)
        return next(filter(None, found), None)

    @cached_property
    def resource_references(self) -> frozenset[str]:
        """The paths that resource files name."""
        return frozenset(each.path for document in self._resources.values() for each in document.references)

    def groups_in(self, path: str) -> frozenset[str]:
        """Return the certificate groups that a resource file names."""
        return frozenset(each.group for each in self._resources[path].references)

    @property
    def unread(self) -> list[str]:
        """The resource files that are named and were not provided."""
        named = [path for document in self._documents for path in document.sources]
        return [path for path in dict.fromkeys(named) if path not in self._resources]

    @property
    def has_dynamic_listeners(self) -> bool:
        """Whether listeners may be added and removed while it runs."""
        return any(document.has_dynamic_listeners for document in self._bootstraps)

    @cached_property
    def sets(self) -> dict[str, str | None]:
        """The sets of resources that an epoch fetches: scope to file, None for a control plane."""
        return {scope: path for document in self._bootstraps for scope, path in document.sets.items()}

    def source_of(self, subscription: Subscription) -> str | None:
        """Return the file that a subscription reads; None for a control plane."""
        secrets = {scope_of(name): path for name, path in self.secret_sources.items()}
        return secrets.get(subscription.scope) or self.sets.get(subscription.scope)

    @cached_property
    def is_static(self) -> bool:
        """Whether an epoch is fully loaded without fetching any resource."""
        return not (self.sets or self.control_planes or self._resources or self.protobuf_sources)

    # Pushes

    @property
    def pushable_files(self) -> frozenset[str]:
        """The certificate files whose contents can be pushed into a running epoch."""
        if any(each.has_resources for each in self._bootstraps[1:]):
            return frozenset()
        elsewhere = {each.path for document in self._documents[1:] for each in document.references}
        return self._bootstraps[0].pushable_files - elsewhere

    @cached_property
    def has_udp(self) -> bool:
        """Whether a listener receives datagrams."""
        return any(listener.is_udp for listener in self.listeners)

    @property
    def admin_address(self) -> AdminAddress | None:
        """The last document's admin address, with all allowed paths: as Envoy merges them."""
        addresses = [address for document in self._bootstraps if (address := document.admin_address) is not None]
        allowed = [path for document in self._bootstraps for path in document.allowed_paths]
        return AdminAddress(addresses[-1], tuple(allowed)) if addresses else None

    @property
    def node(self) -> tuple[str | None, str | None]:
        """The node's id and cluster."""
        ids, clusters = zip(*(document.node for document in self._bootstraps), strict=True)
        return next(filter(None, ids), None), next(filter(None, clusters), None)

    @property
    def has_log_format(self) -> bool:
        """Whether a document sets the application log's format; Envoy then rejects the flag for it."""
        return any(document.has_log_format for document in self._bootstraps)

    def copies(self, materialised: Collection[str]) -> "Copies":
        """Return the copies in which these paths and the resource files are descriptors, made once."""
        key = frozenset({*materialised, *self._resources})
        if key not in self._copies:
            main, *extra = (document.template(key) for document in self._bootstraps)
            resources = {path: self._resources[path].template(key) for path in self._order}
            form = None if self._push is None else partial(self._push_form, tuple(sorted(key)))
            self._copies[key] = Copies(main, extra[0] if extra else None, resources, form)
        return self._copies[key]

    def _push_form(self, files: tuple[str, ...], as_json: bool) -> PushForm:  # the only argument
        return self._bootstraps[0].push_form(files, as_json=as_json)

    def _innermost_first(self) -> Iterator[str]:
        """Yield the resource files so that none names a later one. Raises `BadInput` on a cycle."""
        left = dict(self._resources)
        while left:
            free = [path for path, each in left.items() if not any(source in left for source in each.sources)]
            if not free:
                message = f"cannot use {next(iter(left))}: it is a source of resources of itself; name another file"
                raise BadInput(message)
            yield from free
            for path in free:
                del left[path]


class Copies:
    """The copies of the bootstrap, the extra document and each resource file, made on first use.

    `make_form` makes the form of the bootstrap that takes pushes; None if there is none.
    """

    def __init__(
        self,
        main: Template,
        extra: Template | None,
        resources: Mapping[str, Template],
        make_form: Callable[[bool], PushForm] | None = None,
    ) -> None:
        self._main = main
        self._extra = extra
        self._resources = resources
        self._make_form = make_form
        self._forms: dict[bool, PushForm] = {}

    def fill(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool = False
    ) -> tuple[str, str | None]:
        """Return both texts for one epoch: YAML, or the first as JSON with `as_json`.

        A descriptor has no suffix by which a proxy could recognise JSON.
        """
        extra = None if self._extra is None else self._extra.fill(directory, number, descriptors)
        return self._main.fill(directory, number, descriptors, as_json=as_json), extra

    def fill_pushable(
        self, directory: str, number: int, descriptors: Mapping[str, int], *, as_json: bool
    ) -> tuple[str, str | None, Delivery]:
        """Return both texts of an epoch that takes pushes, and what delivers the rest to it."""
        form = self._form(as_json=as_json)
        extra = None if self._extra is None else self._extra.fill(directory, number, descriptors)
        main = form.main.fill(directory, number, descriptors, as_json=as_json)
        return main, extra, Delivery(form, directory, number)

    def _form(self, *, as_json: bool) -> PushForm:
        assert self._make_form is not None, "such a revision has no files that can be pushed"
        if as_json not in self._forms:
            self._forms[as_json] = self._make_form(as_json)
        return self._forms[as_json]

    def tree(self, directory: str, descriptors: Mapping[str, int]) -> Mapping[str, str | bytes]:
        """Return nothing: Envoy reads /dev/fd/N."""
        del directory, descriptors
        return {}

    def prepare(self, *, as_json: bool) -> None:
        """Make the copies now, so that no event is delayed by it later."""
        for template, form in self._templates(as_json=as_json):
            template.text(as_json=form)
        if self._make_form is not None:
            self._form(as_json=as_json)

    def are_made(self, *, as_json: bool) -> bool:
        """Return whether all copies are made."""
        has_form = self._make_form is None or as_json in self._forms
        return has_form and all(template.is_made(as_json=form) for template, form in self._templates(as_json=as_json))

    def _templates(self, *, as_json: bool) -> Iterator[tuple[Template, bool]]:
        """Yield each template and whether it is filled in as JSON."""
        yield self._main, as_json
        if self._extra is not None:
            yield self._extra, False
        for template in self._resources.values():
            yield template, True

    def hold_resources(self, descriptors: dict[str, int], hold: Callable[[str, bytes], int]) -> None:
        """Add the resource files, innermost first, to `descriptors`: path to the result of `hold`."""
        for path, template in self._resources.items():
            descriptors[path] = hold(path, template.fill("", 0, descriptors, as_json=True).encode())


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"cannot read {name}: byte {error.start} is not UTF-8; save it as UTF-8"
        raise BadInput(message) from error
