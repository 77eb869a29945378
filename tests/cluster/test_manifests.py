"""The manifests of the examples, as a real API server reads them."""

import json

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.manifests import namespace
from tests.examples.manifests import FROM_FILES, RENDERED

EXAMPLES = {**FROM_FILES, **RENDERED}
STRICTLY = ("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename=-")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_api_server_takes_every_object_of_its_own_kinds(cluster: Cluster, name: str) -> None:
    known = cluster.kubectl("api-versions").split()
    objects = [each for each in EXAMPLES[name]().objects if each["apiVersion"] in known]
    assert "Deployment" in {each["kind"] for each in objects}
    for each in objects:
        each["metadata"].setdefault("namespace", "web")
    cluster.apply(*(namespace(each) for each in {each["metadata"]["namespace"] for each in objects}))
    for each in objects:
        cluster.kubectl(*STRICTLY, given=json.dumps(each))
