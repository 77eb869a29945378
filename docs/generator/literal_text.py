"""Finds the text that an expression has in the source, as far as it is written there."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HOLE = "…"
"""Stands for a text that only a running agent knows; a value inside a text is shown by its name, as in <path>."""

_RENAMED = {"error": "reason", "strerror": "reason"}

_DEPTH = 6  # steps from an expression to where its text is written

Function = ast.FunctionDef | ast.AsyncFunctionDef


class UnresolvedError(Exception):
    """An expression's value is not written where this module looks for it."""


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed file, with its functions by name."""

    path: Path
    calls: list[tuple[ast.Call, Function | None]]
    """Each call and the function that it stands in."""

    functions: dict[str, list[Function]]

    @classmethod
    def parse(cls, path: Path) -> Self:
        """Read a file."""
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        module = cls(path, [], {})
        module._collect(tree, None)
        return module

    def _collect(self, node: ast.AST, function: Function | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                self.calls.append((child, function))
            if isinstance(child, Function):
                self.functions.setdefault(child.name, []).append(child)
            self._collect(child, child if isinstance(child, Function) else function)

    def text(self, node: ast.expr, function: Function | None, depth: int = _DEPTH) -> str:
        """Return what an expression says; `HOLE` for what is not written in this file."""
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.JoinedStr(values=values):
                return "".join(self.text(each, function, depth) for each in values)
            case ast.FormattedValue(value=value):
                return self._inner(value, function, depth)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.text(left, function, depth) + self.text(right, function, depth)
            case ast.IfExp(body=body, orelse=orelse):
                return self.text(body, function, depth) or self.text(orelse, function, depth)
        return _with_words(self._origins(node, function, depth - 1)) if depth else HOLE

    def arguments_of(self, function_name: str, position: int) -> list[str]:
        """Return what each call of a function in this file passes at a position."""
        calls = [(call, function) for call, function in self.calls if call_name(call) == function_name]
        return [self.text(call.args[position], function) for call, function in calls if position < len(call.args)]

    def returns_of(self, name: str, depth: int = _DEPTH) -> list[str]:
        """Return the texts that the function or property of this name can give."""
        return [
            self.text(each.value, function, depth)
            for function in self.functions.get(name, [])
            for each in ast.walk(function)
            if isinstance(each, ast.Return) and each.value is not None
        ]

    def branches(self, node: ast.expr, function: Function) -> list[ast.expr]:
        """Return the expressions of which this one is one: both of a condition, those assigned to a variable."""
        match node:
            case ast.IfExp(body=body, orelse=orelse):
                return [*self.branches(body, function), *self.branches(orelse, function)]
            case ast.Name():
                return [each for value in _assigned(function, node) for each in self.branches(value, function)]
        return [node]

    def _origins(self, node: ast.expr, function: Function | None, depth: int) -> list[str]:
        """Return the texts that a variable was assigned, or that a call or a property returns."""
        texts = self.returns_of(call_name(node), depth) if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Attribute):
            texts += self.returns_of(node.attr, depth)
        if isinstance(node, (ast.Name, ast.Attribute)) and function is not None:
            texts += [self.text(each, function, depth) for each in _assigned(function, node)]
        return texts

    def _inner(self, node: ast.expr, function: Function | None, depth: int) -> str:
        """Return the text of a value inside a longer text: of a variable or a property of the same object."""
        text = self.text(node, function, depth) if _is_literal(node) or _is_own(node) else HOLE
        name = (value_of(node) or (node.id if isinstance(node, ast.Name) else "")).strip("_").lower()
        return f"<{_RENAMED.get(name, name)}>" if text == HOLE and name else text


def _is_literal(node: ast.expr) -> bool:
    """Tell whether the text of a variable or of a condition's branches may stand in this file."""
    if isinstance(node, ast.IfExp):
        return isinstance(node.body, ast.Constant) and isinstance(node.orelse, ast.Constant)
    return isinstance(node, (ast.Constant, ast.Name))


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def words(text: str) -> str:
    """Return a text without its values."""
    return re.sub(f"{HOLE}|<\\w+>|[^\\w]", "", text)


def _with_words(texts: list[str]) -> str:
    """Return the first text with words in it."""
    return next((each for each in texts if words(each)), HOLE)


def call_name(call: ast.Call) -> str:
    """Return the last part of the called function's name."""
    return ast.unparse(call.func).rpartition(".")[2]


def value_of(node: ast.expr) -> str | None:
    """Return a literal string, or the name of an attribute such as logging.INFO; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return node.attr if isinstance(node, ast.Attribute) else None


def _assigned(function: Function, name: ast.Name | ast.Attribute) -> list[ast.expr]:
    """Return what was assigned last above a use of a variable, alone or in a tuple; one value for each branch."""
    found: dict[int, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and node.lineno < name.lineno:
            values = [value for target in node.targets for value in _values(target, node.value, ast.unparse(name))]
            found |= {node.lineno: values} if values else {}
    return found[max(found)] if found else []


def _values(target: ast.expr, value: ast.expr, name: str) -> list[ast.expr]:
    match target, value:
        case ((ast.Name() | ast.Attribute()), _) if ast.unparse(target) == name:
            return [value]
        case ast.Tuple(), ast.IfExp(body=body, orelse=orelse):
            return [*_values(target, body, name), *_values(target, orelse, name)]
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            return [each for pair in zip(targets, values, strict=True) for each in _values(*pair, name)]
    return []
