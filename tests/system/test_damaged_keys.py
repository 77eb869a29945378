"""A damaged private key is refused, and no output of the agent contains a part of it."""

from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.cli.agents import agent
from tests.mutations import flattened, leaks
from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.layouts import KEY

pytestmark = pytest.mark.pushed

Damage = Callable[[bytes], bytes]


def relabelled(key: bytes) -> bytes:
    """Put a piece of the body in place of the label."""
    piece = key.splitlines()[1]
    return key.replace(b"PRIVATE KEY", piece)


DAMAGES: dict[str, Damage] = {
    "blanks": lambda key: flattened(key, b" "),
    "nothing": lambda key: flattened(key, b""),
    "literal": lambda key: flattened(key, b"\\n"),
    "relabelled": relabelled,
    "closed by its body": lambda key: key.replace(b"-----END PRIVATE KEY", b"-----END " + key.splitlines()[1]),
    "called a certificate": lambda key: key.replace(b"PRIVATE KEY", b"CERTIFICATE"),
}
PAGES = ("/", "/status", "/metrics", "/healthz/ready")


def everything_written(instance: AgentFixture) -> str:
    """Collect all outputs of the agent and its commands about their files."""
    certs, run_dir = ("--certs", instance.certs), ("--run-dir", instance.run_dir)
    config = ("--config", instance.config, "--proxy-bin", instance.binary)
    commands = [
        agent("check", *config, *certs, *run_dir),
        agent("check", "--proxy-bin", instance.binary, *certs, *run_dir),
        *(agent(word, *run_dir, *more) for word in ("certs", "status", "history") for more in ((), ("--json",))),
    ]
    written = [f"{ran.out}\n{ran.err}" for ran in commands]
    written += [page(instance, path) for path in PAGES]
    written.append((instance.run_dir / "state.json").read_text(encoding="utf-8"))
    return "\n".join([*written, instance.journal.path.read_text(encoding="utf-8")])


def page(instance: AgentFixture, path: str) -> str:
    """Return one page of the status server."""
    try:
        with urlopen(f"http://127.0.0.1:{instance.status.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return error.read().decode()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_nothing_that_is_written_has_a_part_of_a_damaged_key(instance: AgentFixture) -> None:
    key = instance.mint.spare().key_pem
    for name, damage in DAMAGES.items():
        instance.journal.mark()
        (instance.certs / KEY).write_bytes(damage(key))
        eventually(lambda: instance.journal.complaints(KEY), what=f"the key is refused: {name}")
        instance.rotate()
        instance.served()
    (instance.certs / KEY).write_bytes(flattened(key, b" "))
    eventually(lambda: KEY in page(instance, "/status"), what="the refusal is shown")
    assert leaks(key, everything_written(instance)) == []
