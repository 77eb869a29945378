"""Parts of a bootstrap that refer to the control plane, and listeners with certificates from secrets."""

from collections.abc import Sequence
from pathlib import Path

from tests.system.bootstrap import TYPES, Bootstrap, Json, http, listener, plane_cluster

CLUSTER = "xds_cluster"
RETRY = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"}}


def grpc_source(*, delta: bool, cluster: str = CLUSTER) -> Json:
    """Return an ApiConfigSource; a lost stream is reopened within half a second."""
    return {
        "api_type": "DELTA_GRPC" if delta else "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster, "retry_policy": RETRY}}],
    }


def aggregated(timeout: str = "15s") -> Json:
    """Return a ConfigSource for resources of the aggregated stream."""
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": timeout}


def single(*, delta: bool, timeout: str = "15s") -> Json:
    """Return a ConfigSource for resources with a stream of their own."""
    source = grpc_source(delta=delta)
    return {"api_config_source": source, "resource_api_version": "V3", "initial_fetch_timeout": timeout}


def ads(*, delta: bool, timeout: str = "15s") -> Json:
    """Return the dynamic resources of a bootstrap: listeners and clusters over the aggregated stream."""
    source = aggregated(timeout)
    return {"ads_config": grpc_source(delta=delta), "lds_config": source, "cds_config": source}


def xds_cluster(port: int, chain: Path | None = None, key: Path | None = None, trusted: Path | None = None) -> Json:
    """Return the cluster of the control plane, with a client pair for mTLS."""
    cluster = plane_cluster(CLUSTER, port)
    if chain is not None:
        cluster["transport_socket"] = {"name": "tls", "typed_config": client_context(chain, key, trusted)}
    return cluster


def client_context(chain: Path, key: Path | None, trusted: Path | None) -> Json:
    """Return an UpstreamTlsContext with a client pair and the authorities of the server, from files."""
    files = {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
    common = {
        "tls_certificates": [files],
        "validation_context": {"trusted_ca": {"filename": str(trusted)}},
        "alpn_protocols": ["h2"],
    }
    return {"@type": f"{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": common}


def secret_chain(secret: str, source: Json, body: str) -> Json:
    """Return the filter chain that serves HTTP behind a certificate from SDS."""
    common = {"tls_certificate_sds_secret_configs": [{"name": secret, "sds_config": source}]}
    context = {"@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": common}
    return {"filters": [http(body)], "transport_socket": {"name": "tls", "typed_config": context}}


def secret_listener(name: str, port: int, secret: str, source: Json, body: str = "ok\n") -> Json:
    """Return a TLS listener on loopback whose certificate is a secret."""
    return listener(name, "127.0.0.1", port, [secret_chain(secret, source, body)])


def plain_listener(name: str, port: int, body: str = "ok\n") -> Json:
    """Return a plain listener on loopback."""
    return listener(name, "127.0.0.1", port, [{"filters": [http(body)]}])


def refused_listener(name: str, port: int) -> Json:
    """Return a listener that Envoy refuses: two filter chains match the same connections."""
    chains: Sequence[Json] = [{"filters": [http("ok\n")]}] * 2
    return listener(name, "127.0.0.1", port, chains)


class FromPlane(Bootstrap):
    """A bootstrap without static listeners except `more`."""

    def tree(self) -> Json:
        """Return the bootstrap as the tree that `write` formats as YAML."""
        tree = super().tree()
        tree["static_resources"]["listeners"] = self.more
        return tree
