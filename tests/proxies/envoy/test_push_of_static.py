"""What Envoy ignores in a static resource and refuses in a delivered one is left out of what is delivered."""

import json
from typing import Any

from agent.proxies.envoy import push_form, yaml_nodes
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.push_contexts import PushMode

FILES = ["/c/a.crt", "/c/a.key", "/c/ca.crt"]
WATCHING = """
static_resources:
  clusters:
  - transport_socket:
      typed_config:
        common_tls_context:
          tls_certificates:
          - certificate_chain: {filename: /dev/fd/__agent_file_0__}
            private_key: {filename: /dev/fd/__agent_file_1__, watched_directory: {path: /c}}
            watched_directory: {path: /c}
          validation_context:
            trusted_ca: {filename: /dev/fd/__agent_file_2__}
            watchedDirectory: {path: /c}
"""
NAMED_TWICE = """
static_resources:
  listeners:
  - {name: one, stat_prefix: first}
  - {name: one, stat_prefix: second}
  - {name: two}
  - {}
  - {}
"""


def made(text: str) -> push_form.PushForm:
    root = yaml_nodes.read(text, "envoy.yaml")
    return push_form.make(root, FILES, by_listeners=True, as_json=True, is_json=False)


def test_no_directory_is_watched_for_a_secret() -> None:
    """Envoy refuses a secret whose directory does not exist, and creates an inotify instance for one that does."""
    secrets = [json.loads(template.text(as_json=True)) for template in made(WATCHING).secrets.values()]
    assert [sorted(each)[2:] for each in secrets] == [["tls_certificate"], ["validation_context"]]
    assert "watched" not in json.dumps(secrets).lower()


def test_a_listener_with_the_name_of_an_earlier_one_is_not_delivered() -> None:
    listeners = made(NAMED_TWICE).listeners
    assert listeners is not None
    found: list[dict[str, Any]] = json.loads(f"[{listeners.text(as_json=True)}]")
    assert [each["name"] for each in found] == ["one", "two", "agent_listener_3", "agent_listener_4"]
    assert found[0]["stat_prefix"] == "first"


def test_listeners_stay_static_beside_a_locator_of_others() -> None:
    """Envoy would fetch what the URL names from the source of the static ones."""
    text = 'dynamic_resources: {lds_resources_locator: "xdstp://a/envoy.config.listener.v3.Listener/b"}\n'
    configuration = Configuration(text + NAMED_TWICE, "/etc/envoy.yaml", push=PushMode(drains=True))
    *_, delivery = configuration.copies([]).fill_pushable("/run/1", 1, {}, as_json=True)
    assert not delivery.drains
