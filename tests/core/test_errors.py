"""The tree of exceptions: what is caught as what, all over the program."""

import inspect

import pytest

from agent.core import errors
from agent.core.errors import (
    AddressHeld,
    AgentError,
    BadInput,
    MachineError,
    ProtocolError,
    RunDirectoryHeld,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (UsageError, {AgentError}),
        (BadInput, {AgentError}),
        (MachineError, {AgentError}),
        (AddressHeld, {AgentError, MachineError}),
        (RunDirectoryHeld, {AgentError, MachineError}),
        (ProtocolError, {AgentError}),
    ],
)
def test_each_is_caught_as_its_ancestors_and_as_nothing_else(
    error: type[Exception], parents: set[type[Exception]]
) -> None:
    family: set[type[Exception]] = {
        AgentError,
        UsageError,
        BadInput,
        MachineError,
        AddressHeld,
        RunDirectoryHeld,
        ProtocolError,
    }
    assert {each for each in family if issubclass(error, each)} == {error, *parents}


@pytest.mark.parametrize("bug", [OSError, ValueError, RuntimeError, AssertionError, KeyError])
def test_a_bug_or_an_error_of_the_system_is_none_of_them(bug: type[Exception]) -> None:
    assert not issubclass(AgentError, bug)
    assert not issubclass(bug, AgentError)


def test_the_tree_in_the_docstring_names_every_one() -> None:
    drawing = str(errors.__doc__).partition("\n\nA message")[0]
    names = [name for name in dir(errors) if inspect.isclass(getattr(errors, name))]
    assert names
    assert [name for name in names if name not in drawing] == []


def test_the_message_is_what_is_printed() -> None:
    assert str(MachineError("cannot bind /run/x: no space left; remove something")) == (
        "cannot bind /run/x: no space left; remove something"
    )
