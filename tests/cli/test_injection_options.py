"""The command line of an injection becomes its options."""

from typing import Any

import click
import pytest

from agent.cli.injection_options import parsed, with_options
from agent.core.errors import UsageError
from agent.injection.options import Certificates, InjectionOptions, Mode, Native, Profile, Resources


def of(*words: str) -> InjectionOptions:
    """Parse a command line."""
    found: list[dict[str, Any]] = []

    @click.command()
    @with_options
    @click.option("--other")
    def command(**given: Any) -> None:  # noqa: ANN401  # click's values
        found.append(given)

    command.main([*words, "--other", "x"], standalone_mode=False)
    (given,) = found
    options = parsed(given)
    assert given == {"other": "x"}, "those of the command stay"
    return options


def test_the_defaults_are_those_of_the_data_class() -> None:
    assert of() == InjectionOptions()


def test_every_option_reaches_its_field() -> None:
    words = (
        "--profile=tls --image=a:1 --init-image=b:2 --native=off --kubernetes-version=1.28 --cert-source=secret:x"
        " --cpu=1 --memory=64Mi --cpu-limit= --memory-limit=1Gi --proxy-log-level=debug --status-port=15022 --adopt"
        " --no-merge-metrics --interception=TPROXY --exclude-inbound-ports=22 --include-outbound-networks=10.0.0.0/8"
        " --discovery-address=d:15012 --cluster-id=c --cluster-domain=example --hold-application --no-rewrite-probes"
        " --listen-port=443 --forward=localhost:80 --kubernetes-events"
    )
    assert of(*words.split(" ")) == InjectionOptions(
        profile=Profile.TLS, image="a:1", init_image="b:2", native=Native.OFF, kubernetes_version=(1, 28),
        certificates=Certificates(secret="x"), resources=Resources("1", "64Mi", "", "1Gi"), log_level="debug",
        status_port=15022, adopt=True, merge_metrics=False, interception=Mode.TPROXY,
        interception_texts={"local-exclude-ports": "22", "service-cidr": "10.0.0.0/8"}, discovery_address="d:15012",
        cluster_id="c", cluster_domain="example", hold_application=True, rewrite_probes=False, listen_port=443,
        forward="localhost:80", kubernetes_events=True,
    )  # fmt: skip


def test_a_driver_has_attributes() -> None:
    options = of("--cert-source=csi:a.b", "--cert-attribute", "c.d/e=f=g", "--cert-attribute=h=")
    assert options.certificates == Certificates(driver="a.b", attributes={"c.d/e": "f=g", "h": ""})
    with pytest.raises(UsageError, match="cannot use --cert-attribute c: write KEY=VALUE"):
        of("--cert-source=csi:a.b", "--cert-attribute=c")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--cpu=much", "cannot use --cpu much: it is not a quantity like 100m or 128Mi"),
        ("--memory-limit=1 Gi", "cannot use --memory-limit 1 Gi"),
        ("--discovery-address=istiod", "cannot use --discovery-address istiod: it is not of the form host:port"),
        ("--forward=80", "cannot use --forward 80"),
        ("--include-inbound-ports=*,80", r"cannot use --include-inbound-ports \*,80"),
        ("--kubernetes-version=new", "cannot use --kubernetes-version 'new'"),
        ("--cert-source=file:/x", "cannot use --cert-source 'file:/x': write secret:NAME"),
        ("--cert-attribute=a=b", "cannot use --cert-attribute a=b: --cert-source is no csi:DRIVER"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        of(word)
