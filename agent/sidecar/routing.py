"""Finds the route for a request's authority and path, as in Envoy."""

from collections.abc import Sequence

from agent.sidecar.model import Route, VirtualHost


class Routing:
    """Virtual hosts by domain. Raises ValueError if two have the same domain."""

    def __init__(self, hosts: Sequence[VirtualHost]) -> None:
        self._exact: dict[str, VirtualHost] = {}
        self._suffixes: dict[str, VirtualHost] = {}
        self._prefixes: dict[str, VirtualHost] = {}
        self._any: VirtualHost | None = None
        for host in hosts:
            for domain in host.domains:
                self._add(domain.lower(), host)
        self._longest_suffixes = sorted(self._suffixes, key=len, reverse=True)
        self._longest_prefixes = sorted(self._prefixes, key=len, reverse=True)

    def _add(self, domain: str, host: VirtualHost) -> None:
        if domain == "*":
            taken, self._any = self._any is not None, host
        else:
            domains, key = self._place(domain)
            taken = domains.setdefault(key, host) is not host
        if taken:
            raise ValueError(f"cannot route {domain}: two virtual hosts have this domain")

    def _place(self, domain: str) -> tuple[dict[str, VirtualHost], str]:
        if domain.startswith("*"):
            return self._suffixes, domain[1:]
        if domain.endswith("*"):
            return self._prefixes, domain[:-1]
        return self._exact, domain

    def find(self, authority: str, path: str) -> Route | None:
        """Return the first route of the authority's virtual host whose prefix matches, or None.

        A query in `path` is ignored.
        """
        host = self._host(authority.lower())
        if host is None:
            return None
        path = path.partition("?")[0]
        return next((route for route in host.routes if path.startswith(route.prefix)), None)

    def _host(self, authority: str) -> VirtualHost | None:
        found = self._exact.get(authority)
        if found is not None:
            return found
        for suffix in self._longest_suffixes:
            if authority.endswith(suffix) and len(authority) > len(suffix):
                return self._suffixes[suffix]
        for prefix in self._longest_prefixes:
            if authority.startswith(prefix) and len(authority) > len(prefix):
                return self._prefixes[prefix]
        return self._any
