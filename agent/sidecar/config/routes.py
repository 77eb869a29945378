"""Reads virtual hosts and their routes."""

from agent.sidecar.config.addresses import content
from agent.sidecar.config.fields import NOT_SUPPORTED, Message
from agent.sidecar.model import Reply, Route, VirtualHost

_ROUTE = "envoy.config.route.v3"
_LONGEST_BODY = 4096  # bytes: Envoy's default for max_direct_response_body_size_bytes, which is not supported


def virtual_hosts(manager: Message) -> tuple[VirtualHost, ...]:
    """Return the virtual hosts of a manager's inline routes; reject duplicate domains."""
    message = manager.message("route_config", f"{_ROUTE}.RouteConfiguration", required=True)
    assert message is not None
    message.text("name")
    message.only("validate_clusters", value=True)
    hosts, seen = [], set[str]()
    for each in message.messages("virtual_hosts", f"{_ROUTE}.VirtualHost"):
        host = _virtual_host(each)
        hosts.append(host)
        for domain in host.domains:
            if domain in seen:
                each.refuse("domains", f"{domain} occurs twice")
            seen.add(domain)
    return tuple(hosts)


def _virtual_host(message: Message) -> VirtualHost:
    domains = tuple(domain.lower() for domain in message.texts("domains"))
    if not domains:
        message.missing("domains")
    for domain in domains:
        if not domain.isprintable():
            message.refuse("domains", f"{domain!r} holds characters that a header cannot have")
        if not _is_domain(domain):
            message.refuse("domains", f"{domain!r} is {NOT_SUPPORTED}: only names, *.suffix, prefix.* and *")
    routes = tuple(_route(each) for each in message.messages("routes", f"{_ROUTE}.Route"))
    return VirtualHost(message.text("name", required=True), domains, routes)


def _is_domain(domain: str) -> bool:
    """Return whether a domain is a name, `*.suffix`, `prefix.*` or `*`."""
    rest = domain.removeprefix("*.") if domain.startswith("*") else domain.removesuffix(".*")
    return domain == "*" or (rest != "" and "*" not in rest)


def _route(message: Message) -> Route:
    message.text("name")
    match = message.message("match", f"{_ROUTE}.RouteMatch", required=True)
    prefix = ""
    if match is not None and match.one_of("prefix"):
        prefix = match.text("prefix")
    if message.one_of("route", "direct_response") == "route":
        action = message.message("route", f"{_ROUTE}.RouteAction", required=True)
        assert action is not None
        return Route(prefix, action.text("cluster", required=True), action.span("timeout", 15.0))
    return Route(prefix, _reply(message))


def _reply(message: Message) -> Reply:
    response = message.message("direct_response", f"{_ROUTE}.DirectResponseAction")
    if response is None:
        return Reply(404)
    if not response.has("status"):
        response.missing("status")
    body = content(response, "body")
    if len(body) > _LONGEST_BODY:
        response.refuse("body", f"it is longer than {_LONGEST_BODY} bytes")
    return Reply(response.number("status", 404, low=200, high=599), body)
