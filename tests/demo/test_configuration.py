from pathlib import Path

import pytest
import yaml

from agent.demo.authority import CHAIN, KEY
from agent.demo.configuration import bootstrap, configured
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.haproxy.proxy import HAProxy
from agent.proxies.interface import Proxy
from agent.proxies.nginx.proxy import Nginx


def test_the_agent_finds_the_pair_and_the_addresses_in_it() -> None:
    made = bootstrap(4431, 8081, Path("/d/certs"))
    parsed = Envoy(Flags(), 1.0).configuration(yaml.safe_dump(made), "proxy.yaml", None, {})
    assert {(each.path, each.role) for each in parsed.references} == {
        (f"/d/certs/{CHAIN}", "certificate chain"), (f"/d/certs/{KEY}", "private key"),
    }  # fmt: skip
    (listener,) = made["static_resources"]["listeners"]
    (cluster,) = made["static_resources"]["clusters"]
    assert listener["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 4431}}
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 8081}}
    assert "admin" not in made


def test_requests_of_every_path_and_host_go_to_the_origin() -> None:
    (listener,) = bootstrap(1, 2, Path("/c"))["static_resources"]["listeners"]
    ((chain,),) = [listener["filter_chains"]]
    (http,) = [each["typed_config"] for each in chain["filters"]]
    (host,) = http["route_config"]["virtual_hosts"]
    assert (host["domains"], host["routes"]) == (["*"], [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}])
    assert http["http_filters"][-1]["typed_config"]["@type"].endswith("router.v3.Router")
    assert chain["transport_socket"]["typed_config"]["@type"].endswith("DownstreamTlsContext")


@pytest.mark.parametrize(
    ("proxy", "name", "kind"), [("haproxy", "haproxy.cfg", HAProxy()), ("/opt/nginx-1.29", "nginx.conf", Nginx())]
)
def test_other_kinds_of_proxy_have_their_own_configuration(proxy: str, name: str, kind: Proxy) -> None:
    made = configured(proxy, 4431, 8081, Path("/d/certs"), is_brisk=True)
    parsed = kind.configuration(made.text, made.name, None, {})
    paths = {each.path for each in parsed.references}
    assert (made.name, made.arguments) == (name, ())
    assert paths == {f"/d/certs/{CHAIN}", f"/d/certs/{KEY}"}
    assert "127.0.0.1:8081" in made.text


@pytest.mark.parametrize(("is_brisk", "strategy"), [(False, False), (True, True)])
def test_epochs_that_start_fast_drain_at_once(is_brisk: bool, strategy: bool) -> None:
    made = configured("envoy", 1, 2, Path("/c"), is_brisk=is_brisk)
    assert made.name == "proxy.yaml"
    assert ("--drain-strategy" in made.arguments) is strategy
