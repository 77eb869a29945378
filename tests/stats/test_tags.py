"""Envoy's tags in a statistic's name; `tests/epoch/test_admin_documents.py` compares them with Envoy's own."""

from agent.stats.tags import extracted


def test_a_tag_is_taken_out_of_the_name() -> None:
    assert extracted("cluster.a.upstream_rq_5xx") == (
        "cluster.upstream_rq_xx",
        'envoy_response_code_class="5",envoy_cluster_name="a"',
    )


def test_labels_are_escaped() -> None:
    name = 'cluster.x{}"y\\z\n.total'
    assert extracted(name) == ("cluster.total", 'envoy_cluster_name="x{}\\"y\\\\z\\n"')
