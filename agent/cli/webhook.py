"""`agent webhook`: add the sidecar to pods as the API server creates them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.duration import Span
from agent.cli.injection_options import parsed, with_options

if TYPE_CHECKING:
    from agent.injection.options import InjectionOptions
    from agent.webhook.settings import WebhookSettings

_PORT = click.IntRange(1, 65535)
_PORT_OR_NONE = click.IntRange(0, 65535)
_EPILOG = """\
Examples:

\b
  agent webhook --manifest | kubectl apply -f -                what runs it, and its registration
  agent webhook --tls-certs /etc/webhook --register NAME       in its pods
  agent webhook --manifest --profile tls --cert-source secret:app-tls --on-refusal allow

Signals: TERM and INT finish the requests in progress and exit, after --drain-delay, which a second one skips; HUP reads
the certificate again. Exit codes: 0 stopped as asked; 1 it cannot listen; 2 usage.
"""
_SERVING: list[Callable[[Any], Any]] = [
    click.option("--tls-certs", metavar="DIR", help="The certificate and its key; a change is served at once."),
    click.option("--host", metavar="ADDR", help="Where it listens; all interfaces by default."),
    click.option("--port", type=_PORT, default=9443, show_default=True, help="Reviews, over TLS."),
    click.option(
        "--health-port", type=_PORT_OR_NONE, default=15020, show_default=True,
        help="Health and metrics without TLS; 0 for none.",
    ),
    click.option("--register", metavar="NAME", help="Keep the CAs of this MutatingWebhookConfiguration up to date."),
    click.option("--ca", metavar="FILE", help="The CAs to register; by default ca.crt in --tls-certs."),
    click.option(
        "--on-refusal", type=click.Choice(["deny", "allow"]), default="deny", show_default=True,
        help="Reject a pod that wants the sidecar and cannot have it, or admit it without.",
    ),
    click.option(
        "--drain-delay", type=Span(may_be_none=True), default="0s", show_default=True,
        help="Go on accepting after SIGTERM, until no node leads connections here.",
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
    click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
    ),
]  # fmt: skip
_DEPLOYING: list[Callable[[Any], Any]] = [
    click.option("--manifest", is_flag=True, help="Print the objects that run and register it, and exit."),
    click.option("--name", default="proxy-agent-webhook", show_default=True, help="--manifest: of all objects."),
    click.option("--namespace", default="proxy-agent", show_default=True, help="--manifest: where it runs."),
    click.option("--webhook-image", metavar="IMAGE", help="--manifest: its image; by default the agent's."),
    click.option("--tls-secret", metavar="NAME", help="--manifest: the secret of --tls-certs; by default NAME-tls."),
    click.option(
        "--failure-policy", type=click.Choice(["Fail", "Ignore"]),
        help="--manifest: of the API server; by default Fail, and Ignore with --on-refusal allow.",
    ),
]  # fmt: skip
_NOT_PASSED_ON = frozenset({
    "tls_certs", "host", "port", "health_port", "register", "ca", "drain_delay",
    "manifest", "name", "namespace", "webhook_image", "tls_secret", "failure_policy",
})  # fmt: skip


def _with(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:  # noqa: ANN401  # a function, as click decorates it
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


@click.command(epilog=_EPILOG)
@_with(_SERVING)
@_with(_DEPLOYING)
@with_options
@click.pass_context
def webhook(ctx: click.Context, /, **given: Any) -> int:  # noqa: ANN401  # click's values
    """Add the sidecar to pods as the API server creates them: a mutating admission webhook.

    It makes the changes of `agent inject`, with its options. The certificate is replaced while it serves.
    """
    arguments = [*_passed_on(ctx)]
    options = parsed(given)
    if given["manifest"]:
        _print_manifest(given, arguments)
        return 0
    if not given["tls_certs"]:
        message = "Missing option '--tls-certs'."
        raise click.UsageError(message)
    return _serve(_settings(given, options), given)


def _passed_on(ctx: click.Context) -> Iterator[str]:
    """Yield the given options that the webhook in the manifest gets as well."""
    for each in ctx.command.params:
        name = str(each.name)
        if name in _NOT_PASSED_ON or ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            yield each.opts[0] if value else each.secondary_opts[0]
        else:
            yield f"{each.opts[0]}={value}"


def _print_manifest(given: dict[str, Any], arguments: list[str]) -> None:
    import yaml

    from agent.injection.options import IMAGES
    from agent.webhook.manifest import Deployed, objects

    if not given["health_port"]:
        message = "cannot print a manifest with --health-port 0: its probes need one"
        raise click.UsageError(message)
    deployed = Deployed(
        name=given["name"],
        namespace=given["namespace"],
        image=given["webhook_image"] or IMAGES["tls"],
        secret=given["tls_secret"] or f"{given['name']}-tls",
        failure_policy=given["failure_policy"] or ("Ignore" if given["on_refusal"] == "allow" else "Fail"),
        port=given["port"],
        health_port=given["health_port"],
        arguments=arguments,
    )
    click.echo(yaml.dump_all(objects(deployed), Dumper=_dumper(), sort_keys=False, width=1000), nl=False)


def _dumper() -> Any:  # noqa: ANN401  # a class that is imported on use
    """Return a writer that repeats an object instead of naming it by an anchor."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002
            return True

    return Dumper


def _settings(given: dict[str, Any], options: "InjectionOptions") -> "WebhookSettings":
    from agent.cli.settings import every_interface
    from agent.webhook.settings import WebhookSettings

    certificates = Path(given["tls_certs"])
    return WebhookSettings(
        options=options,
        certificates=certificates,
        host=given["host"] or every_interface(),
        port=given["port"],
        health_port=given["health_port"] or None,
        authority_file=Path(given["ca"] or certificates / "ca.crt"),
        registration=given["register"] or "",
        denies=given["on_refusal"] == "deny",
        drain_delay=given["drain_delay"],
    )


def _serve(settings: "WebhookSettings", given: dict[str, Any]) -> int:
    import asyncio

    from agent.host.limits import forbid_core_dumps, keep_standard_streams, raise_descriptor_limit
    from agent.host.log import configure
    from agent.webhook.webhook import run

    keep_standard_streams()
    raise_descriptor_limit()
    forbid_core_dumps()
    configure(given["log_format"], given["log_level"])
    return asyncio.run(run(settings))
