"""The agent's exceptions.

AgentError
├── UsageError            the command line is invalid
├── BadInput              an operator's file cannot be used: the serving epoch keeps serving
├── MachineError          the kernel or the file system returned an error
│   ├── AddressHeld       another process listens on an address that an epoch needs
│   └── RunDirectoryHeld  another agent owns the run directory
└── ProtocolError         a peer on one of an epoch's sockets violated the protocol: that channel is closed

A message reads ``cannot <verb> <thing>: <why>``, in lower case, with the path, the number and the next step.
A bug is none of these: it is an ordinary Python exception and is never swallowed.

No message quotes a file that does not parse: its content may be a private key. Messages contain file names, computed
numbers and terms of a closed set (see `redact`).
"""


class AgentError(Exception):
    """The root of the tree; never raised itself."""


class UsageError(AgentError):
    """The command line is invalid."""


class BadInput(AgentError):
    """An operator's file cannot be used."""


class MachineError(AgentError):
    """The kernel or the file system returned an error."""


class AddressHeld(MachineError):
    """Another process listens on an address that an epoch needs."""


class RunDirectoryHeld(MachineError):
    """Another agent owns the run directory."""


class ProtocolError(AgentError):
    """A peer on one of an epoch's sockets violated the protocol."""
