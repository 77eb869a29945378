"""Children that outlive the agent: a seccomp filter that answers their wish to die with it, and grants it not.

Envoy asks for SIGTERM when the process that started it ends (PR_SET_PDEATHSIG, prctl(2)), which a supervisor that is to
be replaced under running proxies cannot use. The filter is classic BPF, see seccomp(2); it looks at one option of one
system call and lets everything else pass, calls of other architectures and of the 32-bit kind as well.
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

_NUMBER, _ARCHITECTURE, _OPTION = 0, 4, 16  # offsets in struct seccomp_data; an int argument is its lower half

_LOAD = 0x20  # linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_NO_SIGNAL = 1 << 16  # refused by the kernel's own PR_SET_PDEATHSIG, which takes 0 to 64


@dataclass(frozen=True, slots=True)
class _Machine:
    """Numbers of one architecture: AUDIT_ARCH of linux/audit.h, and of system calls."""

    audit: int
    prctl: int
    seccomp: int


_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, prctl=157, seccomp=317),
    "aarch64": _Machine(audit=0xC00000B7, prctl=167, seccomp=277),
}


def keep_children_alive() -> None:
    """Let no process that is started from now on, nor its descendants, be ended with its parent.

    It holds for the rest of this process's life, and across an exec; a second call adds nothing. The price is
    no_new_privs: programs started from now on gain nothing from a setuid bit or from file capabilities, so that a proxy
    with `cap_net_bind_service` on its file cannot bind low ports by it. A privileged agent can still run a proxy as
    another user. Raises `MachineError` where the kernel, or a sandbox around us, does not allow it.
    """
    if children_are_kept_alive():
        return
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        raise _refusal(f"no filter is known for {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
        raise _refusal(_last_error())
    _install(machine, _PR_SET_PDEATHSIG, answer=0)
    if not children_are_kept_alive():
        raise _refusal("the filter has no effect")


def children_are_kept_alive() -> bool:
    """Whether the filter is in force: it answers what the kernel would refuse, and changes nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (_NO_SIGNAL, 0, 0, 0))) == 0)


def _install(machine: _Machine, option: int, *, answer: int) -> None:
    """Have all threads of this process, and what they start, get an errno (0: success) for one option of prctl(2)."""
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
    """Six tests and answers in order; jumps count the instructions to be skipped."""
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
    return MachineError(f"cannot keep the proxies alive should the agent be killed: {why}")


def _last_error() -> str:
    return os.strerror(ctypes.get_errno()).lower()
