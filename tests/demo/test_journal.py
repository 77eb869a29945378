import json
from pathlib import Path

from agent.demo.journal import CANDIDATE, SERVING, Epoch, Log, in_state, read_state


def line(body: str, severity: str = "INFO") -> str:
    return json.dumps({"eventName": "epoch.serving", "severityText": severity, "body": body, "attributes": {}})


def test_the_log_is_read_on_from_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text(f"{line('one')}\n[epoch 1] what a proxy says\n[1, 2]\n{line('two')}\n{line('half')[:20]}")
    log = Log(path)
    assert [entry.body for entry in log.entries()] == ["one", "two"]
    assert log.entries() == []
    with path.open("a") as file:
        file.write(f"{line('half')[20:]}\n")
    assert [entry.body for entry in log.entries()] == ["half"]


def test_the_end_of_the_log_is_for_people(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text(f"{line('long ago')}\n{line('it broke', 'ERROR')}\nTraceback\n")
    assert Log(path).tail(2) == ["ERROR it broke", "Traceback"]


def test_an_entry_has_its_epoch_and_serial(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text(f"{line('epoch 12 (pid 3) serves; serial 00ab12 until then')}\n{line('nothing', 'WARN')}\n")
    first, second = Log(path).entries()
    assert (first.epoch, first.serial, first.is_grave) == (12, "ab12", False)
    assert (second.epoch, second.serial, second.is_grave) == (None, "", True)


def test_the_state_lists_the_epochs_alive(tmp_path: Path) -> None:
    assert read_state(tmp_path) == []
    epochs = [
        {"number": 3, "state": CANDIDATE, "pid": None, "revision": "x"},
        {"number": 2, "state": SERVING, "pid": 17, "revision": "x", "nonce": "n"},
    ]
    (tmp_path / "state.json").write_text(json.dumps({"format": 1, "epochs": epochs}))
    found = read_state(tmp_path)
    assert found == [Epoch(2, SERVING, 17), Epoch(3, CANDIDATE, None)]
    assert in_state(found, SERVING) == found[0]
    assert in_state(found, CANDIDATE) is None, "it has no process yet"
