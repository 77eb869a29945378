"""Changes about secrets that come by SDS, as those of `cases_taken` and its neighbours."""

from pathlib import Path

from tests.sidecar.patches import (
    BY_SDS,
    CA_BY_SDS,
    COMMON,
    CONTEXT,
    UPSTREAM_COMMON,
    Case,
    Json,
    pair,
    secret,
)


def sourced(**source: object) -> Json:
    """Return TLS settings with a certificate from another source."""
    return {BY_SDS: [{"name": "s", "sds_config": {"resource_api_version": "V3", **source}}]}


def combined(**parts: object) -> Json:
    """Return TLS settings with a certificate by SDS and a combined validation context."""
    return {BY_SDS: [secret()], "combined_validation_context": parts}


def taken(directory: Path) -> list[Case]:
    """Both accept these."""
    ca = {"trusted_ca": {"filename": str(directory / "ca")}}
    limited = {**secret()["sds_config"], "initial_fetch_timeout": "5s"}
    return [
        (COMMON, {BY_SDS: [secret()]}),
        (COMMON, {BY_SDS: [secret(), secret("t"), secret()]}),
        (COMMON, {BY_SDS: [secret()], CA_BY_SDS: secret()}),
        (COMMON, {"tls_certificates": [pair(directory)], CA_BY_SDS: secret()}),
        (COMMON, combined(default_validation_context=ca, validation_context_sds_secret_config=secret())),
        (COMMON, combined(default_validation_context={}, validation_context_sds_secret_config=secret())),
        (UPSTREAM_COMMON, {BY_SDS: [secret()], CA_BY_SDS: secret()}),
        (COMMON, {BY_SDS: [secret(request_timeout=None)]}),
        (COMMON, {BY_SDS: [{"name": "s", "sds_config": limited}]}),
    ]


def unsupported(directory: Path) -> list[Case]:
    """Envoy alone accepts these."""
    (directory / "empty.json").write_text("{}")
    grpc = [{"envoy_grpc": {"cluster_name": "static"}}]
    return [
        (COMMON, {BY_SDS: [secret(api_type="GRPC", cluster_names=None, grpc_services=grpc)]}),
        (COMMON, {BY_SDS: [secret(cluster_names=["static", "dns"])]}),
        (COMMON, {BY_SDS: [secret(transport_api_version="AUTO")]}),
        (COMMON, sourced(path_config_source={"path": str(directory / "empty.json")})),
        (COMMON, sourced(ads={})),
        (f"{CONTEXT}.session_ticket_keys_sds_secret_config", secret()),
    ]


def refused(directory: Path) -> list[Case]:
    """Both refuse these."""
    ca = {"trusted_ca": {"filename": str(directory / "ca")}}
    return [
        (f"{COMMON}.{BY_SDS}", [secret()]),
        (f"{COMMON}.{CA_BY_SDS}", secret()),
        (f"{COMMON}.combined_validation_context", combined(default_validation_context=ca)),
        (COMMON, {BY_SDS: []}),
        (COMMON, {BY_SDS: [secret("")]}),
        (COMMON, {BY_SDS: [{"sds_config": secret()["sds_config"]}]}),
        (COMMON, {BY_SDS: [{"name": "s"}]}),
        (COMMON, {BY_SDS: [secret(cluster_names=[])]}),
        (COMMON, {BY_SDS: [secret(refresh_delay=None)]}),
        (COMMON, {BY_SDS: [secret(request_timeout="0s")]}),
        (COMMON, sourced()),
        (COMMON, combined(default_validation_context=ca)),
        (COMMON, combined(validation_context_sds_secret_config=secret())),
        (UPSTREAM_COMMON, {BY_SDS: [secret(), secret("t")]}),
    ]
