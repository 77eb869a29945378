import pytest

from agent.demo.captions import Captions, plural, short, span
from agent.demo.journal import Entry

SERVES = "epoch {} (pid 41) serves, 92 ms after its start; serial {} until 2030-01-01 00:00Z"


def entry(name: str, body: str, severity: str = "INFO") -> Entry:
    return Entry(name, severity, body)


def serving(number: int, serial: str) -> Entry:
    return entry("epoch.serving", SERVES.format(number, serial))


def test_the_first_epoch_and_its_certificate_have_a_caption() -> None:
    assert Captions().words(serving(1, "4a3f9100")) == "epoch 1 serves with serial 4a3f91"


def test_a_rotation_is_left_to_the_clients_that_see_it() -> None:
    story = Captions()
    story.words(serving(1, "4a3f9100"))
    assert story.words(serving(2, "77aa0200")) == ""


def test_an_epoch_with_the_certificate_of_before_serves_last_good() -> None:
    story = Captions()
    story.words(serving(1, "4a3f9100"))
    assert story.words(serving(2, "4a3f9100")) == "epoch 2 serves last good serial 4a3f91"


def test_the_caption_of_an_exit_says_that_clients_wait() -> None:
    body = "no epoch serves: epoch 5 (pid 812) was killed by SIGKILL; last good starts at once"
    told = Captions().words(entry("service.down", body, "ERROR"))
    assert told == "epoch 5 has exited: clients wait in the accept queue, last good starts"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "cannot use /dev/shm/agent-demo-x/certs/tls.crt: there is no PEM in it; write it again, and so on",
            "the agent logs: cannot use tls.crt: there is no PEM in it",
        ),
        (
            "epoch 8 (pid 1234) was killed by SIGKILL; next attempt at once",
            "the agent logs: epoch 8 was killed by SIGKILL",
        ),
    ],
)
def test_captions_of_errors_omit_paths_pids_and_remedies(body: str, told: str) -> None:
    assert Captions().words(entry("anything", body, "WARN")) == told


@pytest.mark.parametrize("name", ["epoch.starting", "epoch.draining", "epoch.gone", "certificate.repaired"])
def test_events_on_the_timeline_have_no_caption(name: str) -> None:
    assert Captions().words(entry(name, "epoch 3 does something")) == ""


def test_numbers_as_they_are_shown() -> None:
    assert short("4a3f91aabbcc") == "4a3f91"
    assert [span(value) for value in (0.0921, 0.9994, 0.9996, 1.2)] == ["92 ms", "999 ms", "1.00 s", "1.20 s"]
    assert [plural(1, "kill"), plural(2, "kill"), plural(1200, "request")] == ["1 kill", "2 kills", "1,200 requests"]
