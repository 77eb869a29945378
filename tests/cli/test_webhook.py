"""`agent webhook`: its options, and the manifest; the webhook as a process: tests/webhook/test_webhook.py."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent.cli.run import agent
from agent.cli.webhook import _settings, webhook
from agent.core.errors import UsageError
from agent.injection.options import InjectionOptions
from agent.webhook.manifest import Deployed, objects
from tests.cli.runner import run


def manifest(*arguments: str) -> dict[str, Any]:
    """Return the printed objects by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(run(webhook, "--manifest", *arguments).out)}


def passed_on(*arguments: str) -> list[str]:
    """Return the arguments of the webhook in the manifest, without those of its own."""
    (container,) = manifest(*arguments)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return [
        each for each in container["args"][1:] if not re.match("--(tls-certs|port|health-port|register|drain)", each)
    ]


def test_the_manifest_is_that_of_the_defaults_and_has_no_anchors() -> None:
    out = run(webhook, "--manifest").out
    expected = Deployed(
        "proxy-agent-webhook", "proxy-agent", "proxy-agent:0.1.0", "proxy-agent-webhook-tls", "Fail", 9443, 15020
    )
    assert list(yaml.safe_load_all(out)) == objects(expected)
    assert not re.search(r"[&*]id\d", out)


def test_its_options_are_those_of_the_injection_that_were_given() -> None:
    assert passed_on() == []
    given = ["--profile=tls", "--cert-source=secret:app-tls", "--no-merge-metrics", "--adopt", "--on-refusal=allow"]
    assert sorted(passed_on(*given)) == sorted(given)


def test_what_the_manifest_passes_on_is_understood(tmp_path: Path) -> None:
    given = ["--profile=tls", "--cpu=", "--no-rewrite-probes", "--on-refusal=allow", "--hold-application"]
    (container,) = manifest(*given)["Deployment"]["spec"]["template"]["spec"]["containers"]
    with pytest.raises(click.UsageError, match="health-port 0"):  # parsed whole, and then this
        run(agent, *container["args"], "--health-port=0", "--manifest")


def test_the_objects_have_the_names_that_were_given() -> None:
    found = manifest("--name", "hook", "--namespace", "mesh", "--webhook-image", "a:1", "--tls-secret", "s")
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "a:1"
    assert pod["volumes"][0]["secret"]["secretName"] == "s"
    assert found["Namespace"]["metadata"]["name"] == "mesh"
    assert {each["metadata"]["name"] for kind, each in found.items() if kind != "Namespace"} == {"hook"}


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ((), "Fail"),
        (("--on-refusal", "allow"), "Ignore"),
        (("--on-refusal", "allow", "--failure-policy", "Fail"), "Fail"),
        (("--failure-policy", "Ignore"), "Ignore"),
    ],
)
def test_with_allow_a_webhook_that_does_not_answer_stops_no_pod(arguments: tuple[str, ...], policy: str) -> None:
    webhooks = manifest(*arguments)["MutatingWebhookConfiguration"]["webhooks"]
    assert {each["failurePolicy"] for each in webhooks} == {policy}


def test_without_a_directory_it_is_told_what_is_missing() -> None:
    with pytest.raises(click.UsageError, match=r"Missing option '--tls-certs'\."):
        run(webhook)


def test_an_option_of_the_injection_is_checked_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot use --cert-source"):
        run(webhook, "--tls-certs", tmp_path, "--cert-source", "file:x")


def test_the_authorities_are_beside_the_certificate_by_default() -> None:
    given: dict[str, Any] = {
        "tls_certs": "/certs", "host": None, "port": 1, "health_port": 0, "ca": None, "register": None,
        "on_refusal": "allow", "drain_delay": 5.0,
    }  # fmt: skip
    settings = _settings(given, InjectionOptions())
    assert settings.authority_file == Path("/certs/ca.crt")
    assert (settings.health_port, settings.denies, settings.registration) == (None, False, "")
    assert _settings({**given, "ca": "/ca.pem"}, InjectionOptions()).authority_file == Path("/ca.pem")
