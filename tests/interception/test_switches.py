"""The table of options."""

from agent.interception.options import parse
from agent.interception.switches import FLAGS, defaults


def test_names_and_letters_are_unique() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    letters = [flag.short for flag in FLAGS if flag.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)


def test_istios_names_and_variables() -> None:
    by_name = {flag.name: flag for flag in FLAGS}
    assert list(by_name["inbound-ports"].names) == ["inbound-ports", "istio-inbound-ports"]
    assert by_name["inbound-ports"].variable == "ISTIO_INBOUND_PORTS"
    assert by_name["kube-virt-interfaces"].variable == "KUBE_VIRT_INTERFACES"


def test_the_environment_gives_defaults() -> None:
    texts = defaults({"ISTIO_INBOUND_PORTS": "80", "PROXY_UID": "7"}, plain=False)
    assert (texts["inbound-ports"], texts["proxy-uid"], texts["service-cidr"]) == ("80", "7", "*")
    assert not {"dry-run", "cleanup-only"} & texts.keys()


def test_istio_intercepts_nothing_by_default() -> None:
    made = parse(defaults({}, plain=True), {}, ())
    assert (made.inbound, made.networks) == ((), ())
    made = parse(defaults({}, plain=False), {}, ())
    assert (made.inbound, made.networks) == (None, None)
