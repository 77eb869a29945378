"""The addresses of this machine."""

import socket
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from agent.host import own_addresses


def interfaces(
    monkeypatch: pytest.MonkeyPatch, *looks: dict[str, Sequence[str]], down: Sequence[str] = ()
) -> list[float]:
    """Let each look at the interfaces find these addresses, the last one again; return the sleeps in between."""
    slept: list[float] = []
    left = list(looks)

    def addresses() -> dict[str, list[SimpleNamespace]]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return {name: [_address(text) for text in texts] for name, texts in found.items()}

    states = {name: SimpleNamespace(isup=name not in down) for look in looks for name in look}
    monkeypatch.setattr("psutil.net_if_addrs", addresses)
    monkeypatch.setattr("psutil.net_if_stats", lambda: states)
    monkeypatch.setattr(own_addresses, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
    return slept


def _address(text: str) -> SimpleNamespace:
    family = socket.AF_PACKET if text.count(":") == 5 else socket.AF_INET6 if ":" in text else socket.AF_INET
    return SimpleNamespace(family=family, address=text)


def test_loopback_link_local_and_hardware_addresses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.0.0.7", "fe80::1%eth0", "fd00::7", "169.254.1.1", "aa:bb:cc:dd:ee:ff"]
    interfaces(monkeypatch, {"lo": ["127.0.0.1", "::1"], "eth0": found})
    assert own_addresses.own_addresses(5.0) == ["10.0.0.7", "fd00::7"]


def test_an_interface_that_is_down_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces(monkeypatch, {"eth0": ["10.0.0.7"], "eth1": ["10.0.0.8"]}, down=["eth0"])
    assert own_addresses.own_addresses(5.0) == ["10.0.0.8"]


def test_an_address_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = interfaces(monkeypatch, {"eth0": []}, {"eth0": []}, {"eth0": ["10.0.0.7"]})
    assert own_addresses.own_addresses(5.0) == ["10.0.0.7"]
    assert len(slept) == 2


def test_after_the_timeout_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = interfaces(monkeypatch, {"eth0": []})
    assert own_addresses.own_addresses(0.5) == []
    assert sum(slept) == pytest.approx(0.5, abs=0.11)


def test_this_machine_has_an_answer() -> None:
    assert all(not address.startswith("127.") for address in own_addresses.own_addresses(0.0))


def test_a_host_is_looked_up() -> None:
    assert own_addresses.first_address("127.0.0.1", 5.0) == "127.0.0.1"
    assert own_addresses.first_address("::1", 5.0) == "::1"
    assert own_addresses.first_address("", 5.0) is None
    assert own_addresses.first_address("nobody.invalid", 5.0) is None
    assert own_addresses.first_address("a" * 70, 5.0) is None


def test_ipv4_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET6, 0, 0, "", ("::1", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: both)
    assert own_addresses.first_address("localhost", 5.0) == "127.0.0.1"


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answered.wait() and [])
    assert own_addresses.first_address("slow.test", 0.01) is None
    answered.set()
