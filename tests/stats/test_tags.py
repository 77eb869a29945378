"""Envoy's tags in a statistic's name; `tests/epoch/test_admin_documents.py` compares them with Envoy's own."""

import pytest

from agent.stats.tags import extracted


def test_a_tag_is_taken_out_of_the_name() -> None:
    assert extracted("cluster.a.upstream_rq_5xx") == (
        "cluster.upstream_rq_xx",
        'envoy_response_code_class="5",envoy_cluster_name="a"',
    )


@pytest.mark.parametrize(
    ("name", "left", "labels"),
    [
        ("server.uptime", "server.uptime", ""),
        ("", "", ""),
        ("cluster.a.upstream_rq_503", "cluster.upstream_rq", 'envoy_response_code="503",envoy_cluster_name="a"'),
        ("cluster.a.upstream_rq_50", "cluster.upstream_rq_50", 'envoy_cluster_name="a"'),
        ("cluster.a.upstream_rq_total", "cluster.upstream_rq_total", 'envoy_cluster_name="a"'),
        ("cluster.a.5xx", "cluster.5xx", 'envoy_cluster_name="a"'),
        (
            "listener.127.0.0.1_8080.http.in.downstream_rq_2xx",
            "listener.http.downstream_rq_xx",
            'envoy_response_code_class="2",envoy_http_conn_manager_prefix="in",envoy_listener_address="127.0.0.1_8080"',
        ),
        ("listener.[__1]_80.downstream_cx_total", "listener.downstream_cx_total", 'envoy_listener_address="[__1]_80"'),
        ("listener.admin.downstream_cx_total", "listener.admin.downstream_cx_total", ""),
        ("http.admin.downstream_rq_total", "http.downstream_rq_total", 'envoy_http_conn_manager_prefix="admin"'),
        ("tcp.x.downstream_cx_total", "tcp.downstream_cx_total", 'envoy_tcp_prefix="x"'),
        (
            "listener.0.0.0.0_443.worker_3.downstream_cx_active",
            "listener.worker.downstream_cx_active",
            'envoy_worker_id="3",envoy_listener_address="0.0.0.0_443"',
        ),
        ("server.worker_0.watchdog_miss", "server.worker.watchdog_miss", 'envoy_worker_id="0"'),
        (
            "listener.0.0.0.0_443.ssl.ciphers.TLS_AES_128_GCM_SHA256",
            "listener.ssl.ciphers",
            'envoy_ssl_cipher="TLS_AES_128_GCM_SHA256",envoy_listener_address="0.0.0.0_443"',
        ),
        (
            "listener.0.0.0.0_443.ssl.versions.TLSv1.3",
            "listener.ssl.versions",
            'envoy_ssl_version="TLSv1.3",envoy_listener_address="0.0.0.0_443"',
        ),
        ("sds.a.b.update_success", "sds.b.update_success", 'envoy_xds_resource_name="a"'),
        ("xcluster.a.total", "xcluster.a.total", ""),
    ],
)
def test_each_tag_has_its_place_in_a_name(name: str, left: str, labels: str) -> None:
    assert extracted(name) == (left, labels)


def test_labels_are_escaped() -> None:
    name = 'cluster.x{}"y\\z\n.total'
    assert extracted(name) == ("cluster.total", 'envoy_cluster_name="x{}\\"y\\\\z\\n"')
