"""The options of `agent inject` and `agent webhook`: what is added to a pod."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agent.injection.options import InjectionOptions

_TRAFFIC = {
    "include-inbound-ports": ("inbound-ports", "Inbound ports to intercept, * for all."),
    "exclude-inbound-ports": ("local-exclude-ports", "Inbound ports that are not intercepted."),
    "include-outbound-ports": ("outbound-ports", "Outbound ports that are always intercepted."),
    "exclude-outbound-ports": ("local-outbound-ports-exclude", "Outbound ports that are not intercepted."),
    "include-outbound-networks": ("service-cidr", "Destinations to intercept, * for all."),
    "exclude-outbound-networks": ("service-exclude-cidr", "Destinations that are not intercepted."),
}
_RESOURCES = {"cpu": "cpu", "memory": "memory", "cpu-limit": "cpu_limit", "memory-limit": "memory_limit"}
_PORT = click.IntRange(1, 65535)

OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--profile", type=click.Choice(["mesh", "tls"]), default="mesh", show_default=True,
        help="mesh: Envoy with a control plane; tls: TLS in front of the application.",
    ),
    click.option("--image", metavar="IMAGE", help="The sidecar; by default that of examples/container."),
    click.option("--init-image", metavar="IMAGE", help="What sets up the interception; by default the sidecar's."),
    click.option(
        "--cert-source", default="none", show_default=True, metavar="SOURCE",
        help="Certificates for /etc/certs: secret:NAME or csi:DRIVER; in a NAME, {workload} and {serviceAccount} are"
        " those of the pod.",
    ),
    click.option(
        "--cert-attribute", multiple=True, metavar="KEY=VALUE", help="An attribute for the CSI driver; may be repeated."
    ),
    click.option(
        "--native", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True,
        help="An init container that restarts always, or an ordinary one; auto: by --kubernetes-version.",
    ),
    click.option("--kubernetes-version", metavar="VERSION", help="The cluster's; native sidecars need 1.29."),
    click.option("--status-port", type=_PORT, default=15020, show_default=True, help="The agent's port."),
    click.option("--proxy-log-level", metavar="LEVEL", help="The level of the sidecar's log."),
    *(
        click.option(f"--{name}", default=default, show_default=True, metavar="QUANTITY", help=text)
        for name, default, text in (
            ("cpu", "100m", "Processors to request; empty for none."),
            ("memory", "128Mi", "Memory to request."),
            ("cpu-limit", "2000m", "The limit of processors."),
            ("memory-limit", "1024Mi", "The limit of memory."),
        )
    ),
    click.option(
        "--merge-metrics/--no-merge-metrics", default=True, show_default=True,
        help="Lead the annotations prometheus.io/… to the agent, which adds the application's metrics.",
    ),
    click.option("--adopt", is_flag=True, help="Replace the sidecar of another injector."),
    # mesh
    click.option(
        "--interception", type=click.Choice(["REDIRECT", "TPROXY", "NONE"]), default="REDIRECT", show_default=True,
        help="mesh: how connections reach the proxy.",
    ),
    *(click.option(f"--{name}", metavar="LIST", help=f"mesh: {text}") for name, (_, text) in _TRAFFIC.items()),
    click.option("--discovery-address", metavar="HOST:PORT", help="mesh: the control plane."),
    click.option("--cluster-id", default="Kubernetes", show_default=True, help="mesh: the cluster's name there."),
    click.option("--cluster-domain", default="cluster.local", show_default=True, help="mesh: the cluster's domain."),
    click.option("--hold-application", is_flag=True, help="mesh: an ordinary sidecar is first, and holds up the rest."),
    click.option(
        "--rewrite-probes/--no-rewrite-probes", default=True, show_default=True,
        help="mesh: lead the application's probes to the agent.",
    ),
    # tls
    click.option("--listen-port", type=_PORT, default=15443, show_default=True, help="tls: where it accepts TLS."),
    click.option(
        "--forward", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="tls: the application."
    ),
    click.option("--kubernetes-events", is_flag=True, help="tls: report warnings as events of the pod."),
]  # fmt: skip


def with_options(command: Any) -> Any:  # noqa: ANN401  # a function, as click decorates it
    """Decorate a command with the options."""
    for decorate in reversed(OPTIONS):
        command = decorate(command)
    return command


def parsed(given: dict[str, Any]) -> "InjectionOptions":
    """Take the options out of a command's arguments and check them. Raises `UsageError`."""
    from agent.injection import options

    take = {name: given.pop(name) for name in [*given] if name in _NAMES}
    version = take["kubernetes_version"]
    return options.InjectionOptions(
        profile=options.Profile(take["profile"]),
        image=take["image"] or "",
        init_image=take["init_image"] or "",
        native=options.Native(take["native"]),
        kubernetes_version=options.version(version) if version else None,
        certificates=options.Certificates.parse(take["cert_source"], take["cert_attribute"]),
        resources=options.Resources(**{field: _quantity(name, take) for name, field in _RESOURCES.items()}),
        log_level=take["proxy_log_level"] or "",
        status_port=take["status_port"],
        adopt=take["adopt"],
        merge_metrics=take["merge_metrics"],
        interception=options.Mode(take["interception"]),
        interception_texts=_interception(take),
        discovery_address=_endpoint("discovery-address", take),
        cluster_id=take["cluster_id"],
        cluster_domain=take["cluster_domain"],
        hold_application=take["hold_application"],
        rewrite_probes=take["rewrite_probes"],
        listen_port=take["listen_port"],
        forward=_endpoint("forward", take),
        kubernetes_events=take["kubernetes_events"],
    )


def _names() -> frozenset[str]:
    def command() -> None:
        """Carry the options."""

    return frozenset(str(each.name) for each in click.command()(with_options(command)).params)


_NAMES = _names()


def _quantity(name: str, take: dict[str, Any]) -> str:
    from agent.core.errors import UsageError
    from agent.injection.options import quantity

    text: str = take[name.replace("-", "_")]
    try:
        if text:
            quantity(text)
    except ValueError as error:
        message = f"cannot use --{name} {text}: {error}"
        raise UsageError(message) from None
    return text


def _endpoint(name: str, take: dict[str, Any]) -> str:
    from agent.core.errors import UsageError
    from agent.istio.discovery import host_and_port

    text: str = take[name.replace("-", "_")] or ""
    if text and host_and_port(text) is None:
        message = f"cannot use --{name} {text}: it is not of the form host:port"
        raise UsageError(message)
    return text


def _interception(take: dict[str, Any]) -> dict[str, str]:
    """Return the options of `agent intercept`, checked one by one."""
    from agent.core.errors import UsageError
    from agent.interception.options import parse

    texts = {}
    for name, (option, _) in _TRAFFIC.items():
        text = take[name.replace("-", "_")]
        if text is None:
            continue
        try:
            parse({option: text}, {}, ())
        except UsageError as error:
            raise UsageError(str(error).replace(f"--{option}", f"--{name}", 1)) from None
        texts[option] = text
    return texts
