"""Without a configuration, every pair is served, and HAProxy accepts what is generated."""

from contextlib import ExitStack
from pathlib import Path

from agent.certificates.references import Reference, Role
from agent.host.run_directory import add_tree
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
    assert found.unread == []
    assert "bind [::]:443 ssl" in text
    assert "server service 127.0.0.1:80" in text


def test_haproxy_accepts_more_pairs_than_a_line_has_words(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"it's {number}.pem") for number in range(70)]
    leaf = Mint().leaf()
    for path in paths:
        Path(path).write_bytes(leaf.chain_pem + leaf.key_pem)
    text = default_configuration(("127.0.0.1", 1), ("::1", 80), [each for path in paths for each in pair(path, path)])
    found = Configuration(text, "generated", "/", {}, {f"{tmp_path}/*": "\n".join(paths).encode()}, pushes=True)
    assert found.pushable_files == set(paths)
    with ExitStack() as stack:
        numbers = {path: stack.enter_context(Path(path).open("rb")).fileno() for path in paths}
        copies = found.copies(paths)
        add_tree(tmp_path, copies.tree(str(tmp_path), numbers), None)
        config = tmp_path / "h.cfg"
        config.write_text(copies.fill(str(tmp_path), 1, numbers)[0], encoding="ascii")
        done = checked(config, descriptors=numbers.values())
    assert done.code == 0, done.output
