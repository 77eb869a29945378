"""Loads one module from other code than its file has; in a child process, as AGENT_MUTANT says.

This directory is on PYTHONPATH of the programs that a test starts. Only the standard library is imported.
"""

import marshal
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType


class Substitute(MetaPathFinder):
    """Finds one module by its name and gives it `code`; without code, the module cannot be imported."""

    def __init__(self, name: str, path: str, code: CodeType | None) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Answer for the one module only."""
        if fullname != self._name:
            return None
        if self._code is None:
            message = f"{fullname} is not imported yet"
            raise ImportError(message)
        return spec_from_file_location(fullname, self._path, loader=_Loader(fullname, self._path, self._code))


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, code: CodeType) -> None:
        super().__init__(fullname, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self._code


def _install() -> None:
    name, path, code = os.environ["AGENT_MUTANT"].split(":")
    try:
        with open(code, "rb") as file:  # noqa: PTH123
            sys.meta_path.insert(0, Substitute(name, path, marshal.load(file)))
    except OSError:  # another user, or the parent has exited
        return


if __name__ == "sitecustomize" and "AGENT_MUTANT" in os.environ:
    _install()
