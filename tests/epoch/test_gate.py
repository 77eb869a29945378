import asyncio
import os
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.epoch.gate import wait_at_gate
from agent.handoff.gate import Gate
from tests.handoff.epochs import until
from tests.system.eventually import PATIENCE


async def test_a_waiting_candidate_passes_when_the_gate_opens(tmp_path: Path) -> None:
    knocks: list[str] = []
    gate = Gate(tmp_path / "gate", lambda: knocks.append("knock"))
    gate.pid = os.getpid()
    await gate.shut(None)
    knocking = asyncio.create_task(wait_at_gate(gate.path))
    await until(lambda: knocks)
    assert not knocking.done()
    gate.open()
    await asyncio.wait_for(knocking, PATIENCE)
    await gate.close()


async def test_a_removed_gate_is_an_error(tmp_path: Path) -> None:
    knocks: list[str] = []
    gate = Gate(tmp_path / "gate", lambda: knocks.append("knock"))
    gate.pid = os.getpid()
    await gate.shut(None)
    knocking = asyncio.create_task(wait_at_gate(gate.path))
    await until(lambda: knocks)
    await gate.close()
    with pytest.raises(MachineError, match=r"cannot pass the gate .*; check that the agent runs"):
        await knocking


async def test_no_gate_and_a_gate_for_another_process_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot pass the gate"):
        await wait_at_gate(tmp_path / "gate")
    gate = Gate(tmp_path / "gate", lambda: None)
    await gate.shut(None)
    with pytest.raises(MachineError, match="cannot pass the gate"):
        await wait_at_gate(gate.path)
    await gate.close()


async def test_another_answer_is_no_admission(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(refuse, tmp_path / "gate"):
        with pytest.raises(MachineError, match="it answers with status 503"):
            await wait_at_gate(tmp_path / "gate")
