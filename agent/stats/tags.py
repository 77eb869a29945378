"""Extracts Envoy's default tags from statistic names, as Prometheus labels."""

import re
from functools import lru_cache

# Only IPv4 addresses contain dots.
_ADDRESS = r"(?:\d+\.\d+\.\d+\.\d+_\d+|(?!admin\.)[^.]+)"
# The second group is the tag's value; the match of the first is removed from the name. Envoy's order.
_TAGS = tuple(
    (tag, re.compile(pattern))
    for tag, pattern in (
        ("envoy_response_code", r"_rq(_(\d{3}))$"),
        ("envoy_response_code_class", r"_rq_((\d))xx$"),
        ("envoy_tls_certificate", r"\.ssl\.certificate(\.([^.]+))\."),
        ("envoy_ssl_cipher", r"\.ssl\.ciphers(\.([^.]+))$"),
        ("envoy_ssl_curve", r"\.ssl\.curves(\.([^.]+))$"),
        ("envoy_ssl_sigalg", r"\.ssl\.sigalgs(\.([^.]+))$"),
        ("envoy_ssl_version", r"\.ssl\.versions(\.(.+))$"),
        ("envoy_worker_id", rf"^(?:listener\.{_ADDRESS}|[^.]+)\.worker(_(\d+))\."),
        ("envoy_http_conn_manager_prefix", rf"^(?:listener\.(?:{_ADDRESS}|admin)\.)?http(\.([^.]+))\."),
        ("envoy_tcp_prefix", r"^tcp(\.([^.]+))\."),
        ("envoy_xds_resource_name", r"^sds(\.([^.]+))\."),
        ("envoy_cluster_name", r"^cluster(\.([^.]+))\."),
        ("envoy_listener_address", rf"^listener(\.({_ADDRESS}))\."),
    )
)


@lru_cache(maxsize=1 << 14)
def extracted(name: str) -> tuple[str, str]:
    """Return a statistic's name without its tags, and the tags as Prometheus labels.

    `cluster.a.upstream_rq_5xx` is `cluster.upstream_rq_xx` with `envoy_response_code_class="5",envoy_cluster_name="a"`.
    """
    labels, spans = [], []
    for tag, pattern in _TAGS:
        if (found := pattern.search(name)) is not None:
            labels.append(f'{tag}="{_escaped(found[2])}"')
            spans.append(found.span(1))
    for start, end in sorted(spans, reverse=True):
        name = name[:start] + name[end:]
    return name, ",".join(labels)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
