import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core.errors import MachineError, UsageError
from agent.http.client import stream
from agent.http.message import Peer, Request
from agent.status.actions import OperationResult, Progress
from agent.status.control import NAME, Control
from tests.status.acting import Acting, ask, controlled
from tests.system.eventually import PATIENCE


def rows(body: str) -> list[dict[str, object]]:
    """Return the lines of a timeline, parsed."""
    return [json.loads(line) for line in body.splitlines()]


# The timeline of an attempt


async def test_the_progress_of_a_restart_is_streamed(tmp_path: Path) -> None:
    actions = Acting(Progress(0.0, "epoch 8 starts"), Progress(0.5, "it is at the gate"), OperationResult("serving", 8))
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions), stream(tmp_path / NAME, Request("POST", "/restart")) as response:
        assert response.status == 200  # before any event
        assert not isinstance(response.body, bytes)
        actions.may_go_on.set()
        body = b"".join([part async for part in response.body])
    assert rows(body.decode()) == [
        {"at": 0.0, "text": "epoch 8 starts"},
        {"at": 0.5, "text": "it is at the gate"},
        {"outcome": "serving", "epoch": 8, "reason": ""},
    ]


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/restart", "restart"),
        ("/restart?binary=1", "restart binary"),
        ("/restart?binary=1&force=1&now=1", "restart binary force now"),
        ("/restart?binary=0&now=1", "restart now"),
        ("/upgrade", "upgrade"),
        ("/stop", "stop"),
        ("/pause", "pause 600"),
        ("/pause?for=1.5", "pause 1.5"),
        ("/resume", "resume"),
        ("/drain", "drain"),
    ],
)
async def test_an_action_is_begun_as_wished_and_noted_with_who_asked(target: str, asked: str, tmp_path: Path) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        status, _ = await ask(tmp_path, "POST", target)
    assert status in {200, 202}
    assert actions.asked == [asked]
    (note,) = actions.notes
    name = Path("/proc/self/comm").read_text().strip()
    assert note == f"{target[1:]} was requested by {name} (pid {os.getpid()}, uid {os.geteuid()})"


async def test_what_the_agent_refuses_is_the_outcome(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting(Progress(0.0, "it starts"), MachineError("cannot start: no memory"))):
        _, body = await ask(tmp_path, "POST", "/restart")
    assert rows(body)[-1] == {"outcome": "refused", "epoch": None, "reason": "cannot start: no memory"}


@pytest.mark.parametrize("target", ["/restart", "/drain"])
async def test_a_client_that_goes_away_cancels_nothing(target: str, tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        _, writer = await asyncio.open_unix_connection(tmp_path / NAME)
        writer.write(f"POST {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
            writer.transport.abort()
            actions.may_go_on.set()
            await actions.ended.wait()


async def test_last_words_are_sent_before_the_program_is_replaced(tmp_path: Path) -> None:
    """The execve(2) may follow `executing`, after which no data is sent."""
    with socket.socket(socket.AF_UNIX) as asker:

        class Executing(Acting):
            heard = b""

            async def _tell(self) -> AsyncIterator[Progress | OperationResult]:
                yield OperationResult("executing")
                self.heard = asker.recv(65536)
                self.ended.set()
                yield OperationResult("failed", reason="cannot execute it")

        actions = Executing()
        async with controlled(tmp_path, actions):
            asker.connect(str(tmp_path / NAME))
            asker.sendall(b"POST /upgrade HTTP/1.0\r\nconnection: close\r\n\r\n")
            asker.setblocking(False)
            async with asyncio.timeout(PATIENCE):
                await actions.ended.wait()
    assert b'"executing"' in actions.heard


async def test_a_bug_in_an_action_ends_the_answer_and_is_reported_to_the_loop(tmp_path: Path) -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context.get("exception")))
    bug = ZeroDivisionError("a bug")
    async with controlled(tmp_path, Acting(Progress(0.0, "it starts"), bug)):
        with pytest.raises(ConnectionError):
            await ask(tmp_path, "POST", "/restart")
    for _ in range(3):
        await asyncio.sleep(0)
    assert bug in unhandled


# Draining


async def test_a_drain_is_answered_when_it_has_ended(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        answer = asyncio.create_task(ask(tmp_path, "POST", "/drain"))
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
            assert not answer.done()
            actions.may_go_on.set()
            assert await answer == (200, "drained, no connection is left\n")


async def test_a_drain_is_answered_at_once_if_that_is_asked(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions) as control:
        assert await ask(tmp_path, "POST", "/drain?wait=0") == (202, "draining\n")
        actions.may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            await actions.ended.wait()
            while control._begun:  # noqa: ASYNC110  # an action that has ended is forgotten
                await asyncio.sleep(0)


async def test_a_failed_drain_without_a_waiting_client_is_logged(tmp_path: Path) -> None:
    actions = Acting()
    actions.refusal = MachineError("cannot drain: nothing serves")
    async with controlled(tmp_path, actions):
        await ask(tmp_path, "POST", "/drain?wait=0")
        assert await ask(tmp_path, "POST", "/drain") == (409, "cannot drain: nothing serves\n")
    assert "cannot drain: nothing serves" in actions.notes


async def test_a_drain_without_a_waiting_client_is_cancelled_when_the_socket_closes(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with asyncio.timeout(PATIENCE):
        async with controlled(tmp_path, actions):
            await ask(tmp_path, "POST", "/drain?wait=0")
            await actions.asked_something.wait()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "it is waited for"
    assert not actions.ended.is_set()


# Queries


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("POST", "/restart", "application/x-ndjson"),
        ("POST", "/upgrade", "application/x-ndjson"),
        ("GET", "/state", "application/json"),
        ("GET", "/status", "application/json"),
        ("GET", "/ready", "text/plain; charset=utf-8"),
        ("GET", "/stop", "text/plain"),
    ],
)
async def test_each_answer_has_its_kind(method: str, target: str, kind: str, tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()), stream(tmp_path / NAME, Request(method, target)) as response:
        assert dict(response.headers)["content-type"] == kind


async def test_another_method_is_answered_with_the_one_that_is_accepted(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()), stream(tmp_path / NAME, Request("GET", "/drain")) as response:
        assert (response.status, dict(response.headers)["allow"]) == (405, "POST")


async def test_readiness_has_its_reason_and_is_no_action(tmp_path: Path) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        assert await ask(tmp_path, "GET", "/ready") == (200, "ready\n")
        actions.reason = "no epoch serves"
        assert await ask(tmp_path, "GET", "/ready") == (503, "no epoch serves\n")
    assert actions.notes == []


async def test_readiness_is_waited_for_as_long_as_asked(tmp_path: Path) -> None:
    actions = Acting()
    actions.may_go_on.clear()
    async with controlled(tmp_path, actions):
        assert (await ask(tmp_path, "GET", "/ready?wait=0.01"))[0] == 503
        actions.asked_something.clear()
        answer = asyncio.create_task(ask(tmp_path, "GET", "/ready?wait=60"))
        async with asyncio.timeout(PATIENCE):
            await actions.asked_something.wait()
            actions.may_go_on.set()
            assert await answer == (200, "ready\n")


async def test_the_state_is_json(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()):
        status, body = await ask(tmp_path, "GET", "/state")
    assert (status, json.loads(body)) == (200, {"serving": 8, "draining": [7]})


# Invalid requests


@pytest.mark.parametrize(
    ("method", "target", "status", "said"),
    [
        ("GET", "/", 404, "there is no /; available: /restart, /upgrade"),
        ("POST", "/restart/8", 404, "there is no /restart/8; available"),
        ("GET", "/restart", 405, "cannot GET /restart: it accepts POST"),
        ("POST", "/ready", 405, "cannot POST /ready: it accepts GET"),
        ("POST", "/restart?hard=1", 400, "there is no parameter hard; available: binary, force, now"),
        ("POST", "/restart?force=yes", 400, "cannot use force=yes: it must be 0 or 1"),
        ("POST", "/restart?force", 400, "cannot use force=: it must be 0 or 1"),
        ("POST", "/stop?now=1", 400, "there is no parameter now; available: none"),
        ("POST", "/pause?for=10m", 400, "cannot use for=10m: it is not a number of seconds"),
        ("POST", "/pause?for=nan", 400, "it is not a number of seconds"),
        ("POST", "/pause?for=inf", 400, "it is not a number of seconds"),
        ("POST", "/pause?for=0", 400, "cannot pause for 0 s"),
        ("GET", "/ready?wait=-1", 400, "it is not a number of seconds"),
        ("POST", "/request?epoch=-1", 400, "cannot use epoch=-1"),
        ("POST", f"/request?epoch={'9' * 5000}", 400, "cannot use epoch=9"),
        ("POST", "/request?epoch=%C2%B2", 400, "cannot use epoch=²"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_words(
    method: str, target: str, status: int, said: str, tmp_path: Path
) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        got, body = await ask(tmp_path, method, target)
    assert got == status
    assert said in body
    assert (actions.asked, actions.notes) == ([], [])


@pytest.mark.parametrize("refusal", [MachineError("cannot stop: it is stopping"), UsageError("cannot stop: why?")])
async def test_an_action_that_fails_is_reported(refusal: MachineError, tmp_path: Path) -> None:
    actions = Acting()
    actions.refusal = refusal
    async with controlled(tmp_path, actions):
        status, body = await ask(tmp_path, "POST", "/stop")
    assert (status, body) == (400 if isinstance(refusal, UsageError) else 409, f"{refusal}\n")


# The socket


async def test_the_socket_is_the_owners_alone_and_goes_with_the_agent(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()):
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert list(tmp_path.iterdir()) == []


async def test_what_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    for name in (NAME, f".{NAME}"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    async with controlled(tmp_path, Acting()):
        assert (await ask(tmp_path, "GET", "/ready"))[0] == 200


async def test_a_place_where_it_cannot_listen_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=f"cannot listen on {tmp_path}/gone/control: No such file"):
        async with controlled(tmp_path / "gone", Acting()):
            pass


async def test_a_stranger_is_turned_away_and_noted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    actions = Acting()
    place = Path(f"/tmp/agent-test-{os.getpid()}")
    place.mkdir()
    try:
        async with controlled(place, actions):
            place.chmod(0o755)
            (place / NAME).chmod(0o666)
            os.seteuid(65534)
            try:
                reader, writer = await asyncio.open_unix_connection(place / NAME)
                writer.write(b"POST /stop HTTP/1.1\r\nhost: a\r\n\r\n")
            finally:
                os.seteuid(0)
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(PATIENCE):
                    assert await reader.read() == b""
            writer.transport.abort()
    finally:
        place.rmdir()
    assert actions.asked == []
    (note,) = actions.notes
    assert f"(pid {os.getpid()}, uid 65534) was rejected" in note


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("user", "is_admitted"), [(0, True), (65534, True), (65533, False)])
async def test_an_agent_without_privileges_admits_root_and_its_own_user(user: int, is_admitted: bool) -> None:
    actions = Acting()
    control = Control(actions, actions.notes.append)
    os.seteuid(user)
    one, other = socket.socketpair(socket.AF_UNIX)
    os.seteuid(0)
    with one, other:
        os.seteuid(65534)
        try:
            assert control.admits(one) is is_admitted
        finally:
            os.seteuid(0)
    assert len(actions.notes) == (not is_admitted)


async def test_the_status_is_returned(tmp_path: Path) -> None:
    async with controlled(tmp_path, Acting()):
        status, text = await ask(tmp_path, "GET", "/status")
    assert (status, json.loads(text)["epoch"]) == (200, 7)


async def test_an_answer_of_the_admin_interface_is_passed_on(tmp_path: Path) -> None:
    actions = Acting()
    async with controlled(tmp_path, actions):
        assert await ask(tmp_path, "POST", "/request?target=%2Fstats%3Ffilter%3Da") == (418, "told by a console\n")
        await ask(tmp_path, "POST", "/request?method=HEAD")
        await ask(tmp_path, "POST", "/request?method=POST&target=%2Freset_counters&epoch=6")
        assert (await ask(tmp_path, "POST", "/request?epoch=six"))[0] == 400
    assert actions.asked == [
        "request GET /stats?filter=a None",
        "request HEAD / None",
        "request POST /reset_counters 6",
    ]
    (note,) = actions.notes
    assert "reset_counters" in note


async def test_a_client_without_a_visible_process_is_noted_all_the_same(tmp_path: Path) -> None:
    """It exited, or runs in another PID namespace; over another kind of socket there is no process."""
    actions = Acting()
    async with controlled(tmp_path, actions) as control:
        await control.answer(Request("POST", "/stop", peer=Peer(0, 7, 8)))
        await control.answer(Request("POST", "/resume"))
    assert actions.notes == [
        "stop was requested by an unknown process (pid 0, uid 7)",
        "resume was requested by somebody",
    ]


async def test_the_name_of_a_process_cannot_steer_the_log(tmp_path: Path) -> None:
    actions, comm = Acting(), Path("/proc/self/comm")
    name = comm.read_text().rstrip("\n")
    comm.write_bytes(b"a\x1b[2J\n\xffb")
    try:
        async with controlled(tmp_path, actions) as control:
            await control.answer(Request("POST", "/stop", peer=Peer(os.getpid(), 7, 8)))
    finally:
        comm.write_text(name)
    assert actions.notes == [f"stop was requested by a?[2J?\N{REPLACEMENT CHARACTER}b (pid {os.getpid()}, uid 7)"]
