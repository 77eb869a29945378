"""Changed files, and only those, are set and committed; a refusal aborts and names the file."""

import asyncio
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.proxies.haproxy.console import Console
from agent.proxies.haproxy.delivery import Delivery, Pushable
from agent.proxies.interface import PushRefusedError
from agent.proxies.standalone import StandaloneConfiguration

SITE = (
    Pushable("cert", "/c/a.crt", "/d/a b.crt", "/d/a b.crt"),
    Pushable("cert", "/c/a.key", "/d/a b.key", "/d/a b.crt"),
)
ROOTS = Pushable("ca-file", "/c/roots", "/dev/fd/9", "/dev/fd/9")
OLD = {"/c/a.crt": b"chain\n\n", "/c/a.key": b"key", "/c/roots": b"roots"}


class Recorder(Console):
    """A console that records commands, with an answer for those that begin with a text."""

    def __init__(self, **answers: str) -> None:
        super().__init__(Path("/none"), Path("/none"), StandaloneConfiguration("h.cfg"))
        self.commands: list[str] = []
        self.answers = {
            "set": "Transaction created for certificate x!\n",
            "commit": "Committing x\nSuccess!\n",
            **answers,
        }

    async def command(self, text: str, timeout: float = 5.0) -> str:
        """Record a command."""
        del timeout
        self.commands.append(text)
        return self.answers.get(text.split(maxsplit=1)[0], "")


def pushed(console: Recorder, contents: dict[str, bytes], *, again: bool = False) -> Delivery:
    """Push contents into an epoch that has the old ones."""
    delivery = Delivery((*SITE, ROOTS))
    delivery.offer({}, OLD)
    asyncio.run(delivery.push(console, {}, contents, again=again))
    return delivery


def test_what_did_not_change_is_not_sent() -> None:
    console = Recorder()
    pushed(console, OLD)
    assert console.commands == []


def test_a_pair_is_set_and_committed_whole_under_escaped_names() -> None:
    console = Recorder()
    pushed(console, {**OLD, "/c/a.key": b"new\r\n\r\nkey\n"})
    assert console.commands == [
        "set ssl cert /d/a\\ b.crt <<\nchain\n\n",
        "set ssl cert /d/a\\ b.key <<\nnew\nkey\n\n",
        "commit ssl cert /d/a\\ b.crt\n",
    ]


def test_again_sends_everything() -> None:
    console = Recorder()
    pushed(console, OLD, again=True)
    assert [command.split(" <<")[0].strip() for command in console.commands[-2:]] == [
        "set ssl ca-file /dev/fd/9",
        "commit ssl ca-file /dev/fd/9",
    ]


@pytest.mark.parametrize("word", ["set", "commit"])
def test_a_refusal_aborts_and_is_kept_until_the_next_push(word: str) -> None:
    console = Recorder(**{word: "Committing x.\nunable to load it.\nFailed!\n"})
    console.refusals.append("of an earlier push")
    with pytest.raises(PushRefusedError) as caught:
        pushed(console, {**OLD, "/c/roots": b"new"})
    assert caught.value.scope == "/c/roots"
    assert console.commands[-1] == "abort ssl ca-file /dev/fd/9\n"
    assert console.refusals == ["/dev/fd/9: unable to load it."]


@pytest.mark.parametrize(
    "answer", ["", "Unknown command: 'set'", "Permission denied\n", "The ongoing transaction is about 'x' but …"]
)
def test_what_is_not_about_the_file_is_no_refusal(answer: str) -> None:
    with pytest.raises(MachineError, match=r"^/c/roots cannot be pushed: "):
        pushed(Recorder(set=answer), {**OLD, "/c/roots": b"new"})


def test_what_was_committed_before_a_refusal_is_known_to_be_there() -> None:
    console = Recorder()
    delivery = pushed(console, {**OLD, "/c/a.key": b"new"})
    console.commands.clear()
    asyncio.run(delivery.push(console, {}, {**OLD, "/c/a.key": b"new"}))
    assert console.commands == []
    asyncio.run(delivery.push(console, {}, OLD))
    assert len(console.commands) == 3


def test_haproxy_asks_for_nothing() -> None:
    delivery = Delivery(())
    assert not delivery.scopes
    assert not delivery.refused
    assert not delivery.drains
