"""A seccomp filter that disables PR_SET_PDEATHSIG, so that proxies outlive the agent.

Envoy requests SIGTERM for the exit of its parent (PR_SET_PDEATHSIG, prctl(2)), which does not fit a supervisor that is
replaced under running proxies. The filter returns success without effect. It is classic BPF, see seccomp(2), checks one
option of one system call and allows all others, including those of other architectures and 32-bit calls.
"""

import ctypes
import os
import struct
from dataclasses import dataclass

from agent.core.errors import MachineError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38

_SET_MODE_FILTER = 1  # linux/seccomp.h
_FLAG_TSYNC = 1
_FLAG_SPEC_ALLOW = 4  # Linux 4.17: without it, kernels before 5.16 make filtered processes pay for Spectre v4
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

_NUMBER, _ARCHITECTURE, _OPTION = 0, 4, 16  # offsets in struct seccomp_data; an int argument is the lower half

_LOAD = 0x20  # linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_NO_SIGNAL = 1 << 16  # rejected by the kernel's PR_SET_PDEATHSIG, which accepts 0 to 64


@dataclass(frozen=True, slots=True)
class _Machine:
    """An architecture's AUDIT_ARCH value (linux/audit.h) and system call numbers."""

    audit: int
    prctl: int
    seccomp: int


_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, prctl=157, seccomp=317),
    "aarch64": _Machine(audit=0xC00000B7, prctl=167, seccomp=277),
}


def keep_children_alive() -> None:
    """Install the filter, so that processes started from now on outlive their parent.

    Their descendants inherit it. It lasts until this process exits, and across an exec; a second call adds nothing. The
    cost is no_new_privs: programs started from now on gain nothing from a setuid bit or file capabilities, so a proxy
    with `cap_net_bind_service` on its file cannot bind low ports. A privileged agent can still run a proxy as another
    user. Raises `MachineError` if the kernel, or a sandbox, does not allow it.
    """
    if children_are_kept_alive():
        return
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        raise _refusal(f"there is no filter for {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        raise _refusal(_last_error())
    _install(machine, _PR_SET_PDEATHSIG, answer=0)
    if not children_are_kept_alive():
        raise _refusal("the filter has no effect")


def children_are_kept_alive() -> bool:
    """Whether the filter is active: it accepts a signal number that the kernel would reject."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (_NO_SIGNAL, 0, 0, 0))) == 0)


def _install(machine: _Machine, option: int, *, answer: int) -> None:
    """Install a filter that returns an errno (0: success) for one option of prctl(2).

    It applies to all threads of this process and to the processes they start.
    """
    code = _program(machine, option, answer)
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_FLAG_TSYNC | _FLAG_SPEC_ALLOW)
    result = libc.syscall(ctypes.c_long(machine.seccomp), ctypes.c_ulong(_SET_MODE_FILTER), flags, program)
    if result > 0:
        raise _refusal(f"thread {result} has a filter of its own")
    if result < 0:
        raise _refusal(_last_error())


def _program(machine: _Machine, option: int, answer: int) -> bytes:
    """Return the BPF program; a jump is the number of instructions to skip."""
    instructions = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 5, machine.audit),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 3, machine.prctl),
        (_LOAD, 0, 0, _OPTION),
        (_JUMP_IF_EQUAL, 0, 1, option),
        (_RETURN, 0, 0, _ERRNO | answer),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("HBBI", *each) for each in instructions)  # struct sock_filter


def _refusal(why: str) -> MachineError:
    return MachineError(f"cannot keep the proxies running if the agent is killed: {why}")


def _last_error() -> str:
    return os.strerror(ctypes.get_errno()).lower()
