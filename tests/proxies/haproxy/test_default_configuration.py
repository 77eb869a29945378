"""Without a configuration, every pair is served, and HAProxy accepts what is generated."""

from pathlib import Path

from agent.certificates.references import Reference, Role
from agent.proxies.haproxy.configuration import Configuration
from agent.proxies.haproxy.default_configuration import default_configuration
from tests.proxies.haproxy.programs import checked
from tests.system.certificates import Mint


def pair(chain: str, key: str) -> list[Reference]:
    """Return the references of a pair."""
    return [Reference(chain, Role.CHAIN, chain), Reference(key, Role.KEY, chain)]


def test_pairs_of_any_name_are_served() -> None:
    pairs = [*pair("/c/one.pem", "/c/one.pem"), *pair("/c/it's.crt", "/c/it's.key"), *pair("/c/b", "/c/b.key")]
    text = default_configuration(("::", 443), ("127.0.0.1", 80), pairs)
    names = b"\n".join(each.path.encode() for each in pairs)
    found = Configuration(text, "generated", "/", {}, {"/c/*": names}, pushes=True)
    assert found.references == pairs
    assert "bind [::]:443 ssl" in text
    assert "server service 127.0.0.1:80" in text


def test_haproxy_accepts_it(tmp_path: Path) -> None:
    leaf = Mint().leaf()
    path = tmp_path / "it's one.pem"
    path.write_bytes(leaf.chain_pem + leaf.key_pem)
    config = tmp_path / "h.cfg"
    config.write_text(
        default_configuration(("127.0.0.1", 1), ("::1", 80), pair(str(path), str(path))), encoding="ascii"
    )
    done = checked(config)
    assert done.code == 0, done.output
