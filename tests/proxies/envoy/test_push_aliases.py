"""A bootstrap whose TLS contexts share certificates by YAML aliases takes pushes like any other."""

import pytest

from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.push_contexts import PushMode

FILES = ["/c/a.crt", "/c/a.key", "/c/ca.crt"]
DESCRIPTORS = {path: number for number, path in enumerate(FILES, 11)}
ALIASED = """
static_resources:
  listeners:
  - name: one
    filter_chains:
    - transport_socket: &socket
        typed_config:
          common_tls_context:
            tls_certificates: &certificates
            - {certificate_chain: {filename: /c/a.crt}, private_key: {filename: /c/a.key}}
            validation_context: &trusted {trusted_ca: {filename: /c/ca.crt}}
  - {name: two, filter_chains: [transport_socket: *socket]}
  clusters:
  - {name: a, transport_socket: {typed_config: {common_tls_context: &context {tls_certificates: *certificates}}}}
  - {name: b, transport_socket: {typed_config: {common_tls_context: *context}}}
  - {name: c, transport_socket: {typed_config: {common_tls_context: {validation_context: *trusted}}}}
"""


@pytest.mark.parametrize(("drains", "secrets"), [(True, 3), (False, 7)])
def test_each_place_of_an_alias_gets_its_certificates(drains: bool, secrets: int) -> None:
    configuration = Configuration(ALIASED, "/etc/envoy.yaml", push=PushMode(drains))
    assert configuration.pushable_files == set(FILES)
    main, _, delivery = configuration.copies(FILES).fill_pushable("/run/1", 1, DESCRIPTORS, as_json=True)
    assert main.count("agent_secret_") == secrets
    assert len([scope for scope in delivery.scopes if scope.startswith("sds.")]) == secrets
