"""Every failure the agent knows by name.

AgentError
├── UsageError            the command line cannot be meant
├── BadInput              an operator's file cannot be used: what serves goes on serving
├── MachineError          the kernel or the file system refused
│   ├── AddressHeld       somebody else listens where an epoch should
│   └── RunDirectoryHeld  another agent owns the run directory
└── ProtocolError         a peer on one of an epoch's sockets said something impossible: that channel is closed

A message reads ``cannot <verb> <thing>: <why>``, in lower case, with the path, the number and the next step.
A bug is none of these: it is an ordinary Python exception, and nobody swallows it.

No message quotes what stands in a file that does not parse: it may be a private key. It has names of files, numbers
that were computed, and words of a closed set (see `core.quotes`).
"""


class AgentError(Exception):
    """The root of the tree; never raised itself."""


class UsageError(AgentError):
    """The command line cannot be meant."""


class BadInput(AgentError):
    """An operator's file cannot be used."""


class MachineError(AgentError):
    """The kernel or the file system refused."""


class AddressHeld(MachineError):
    """Somebody else listens where an epoch should."""


class RunDirectoryHeld(MachineError):
    """Another agent owns the run directory."""


class ProtocolError(AgentError):
    """A peer on one of an epoch's sockets said something impossible."""
