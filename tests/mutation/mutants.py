"""The mutants of a module, from its syntax tree.

Texts (strings with a space in them), annotations, assertions, docstrings and what only a type checker sees stay.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}
_UNTYPED = ("annotation", "returns", "type_params")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `lines` is the span of its statement; `imported` code runs when the module is imported."""

    line: int
    lines: range
    imported: bool
    before: str
    after: str
    code: CodeType


@dataclass(frozen=True, slots=True)
class _Site:
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    statement: ast.stmt
    imported: bool

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants_of(path: Path) -> list[Mutant]:
    """Return all mutants of a file, in order, without those whose bytecode is that of the file or of another mutant."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    seen = {compile(tree, str(path), "exec")}
    made = []
    for site in list(_sites(tree, tree.body[0], imported=True)):
        for new in _alternatives(site):
            site.put(ast.fix_missing_locations(ast.copy_location(new, site.node)))
            code = compile(tree, str(path), "exec")
            site.put(site.node)
            if code not in seen:
                seen.add(code)
                made.append(_mutant(site, new, source.splitlines(), code))
    return made


def _mutant(site: _Site, new: ast.AST, lines: list[str], code: CodeType) -> Mutant:
    node, statement = site.node, site.statement
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno
    assert statement.end_lineno
    before = lines[node.lineno - 1].encode()
    rest = before[node.end_col_offset :] if node.end_lineno == node.lineno else b" \xe2\x80\xa6"
    after = before[: node.col_offset] + ast.unparse(new).encode() + rest
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    end = max(statement.lineno, getattr(body[0], "lineno", statement.lineno + 1) - 1) if body else statement.end_lineno
    span = range(statement.lineno, end + 1)
    return Mutant(node.lineno, span, site.imported, before.decode().strip(), after.decode().strip(), code)


def _sites(parent: ast.AST, statement: ast.stmt, *, imported: bool) -> Iterator[_Site]:
    for field, value in ast.iter_fields(parent):
        if field in _UNTYPED:
            continue
        inside = imported and not (field == "body" and isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef))
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or _is_fixed(node, parent, field):
                continue
            here = node if isinstance(node, ast.stmt) else statement
            yield _Site(parent, field, index if isinstance(value, list) else None, node, here, inside)
            yield from _sites(node, here, imported=inside)


def _is_fixed(node: ast.AST, parent: ast.AST, field: str) -> bool:
    """Whether nothing below is changed."""
    match node:
        case (
            ast.Assert()
            | ast.Expr(value=ast.Constant())
            | ast.Import()
            | ast.ImportFrom()
            | ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Compare(left=ast.Name(id="__name__")))
            | ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")])
            | ast.AnnAssign(annotation=ast.Name(id="TypeAlias"))
            | ast.Subscript(value=ast.Name(id="Literal"))
        ):
            return True
    if field == "decorator_list":
        return "dataclass" in ast.unparse(node)
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in {"cast", "TypeVar"}:
        return node is parent.args[0]
    return field == "format_spec" or (isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant))


def _alternatives(site: _Site) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - one case a kind
    if site.field in {"test", "ifs"}:
        yield ast.Constant(value=False)
        if not isinstance(site.parent, ast.While):
            yield ast.Constant(value=True)
    match node := site.node:
        case ast.Compare(left, operators, values):
            for at, operator in enumerate(operators):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*operators[:at], other(), *operators[at + 1 :]], values)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if not (_is_type(left) or _is_type(right)):
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value):
            yield ast.AugAssign(target, _OPERATORS[type(operator)](), value)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(str(value)) if value and " " not in value:
            yield ast.Constant("")
        case ast.Constant(bytes(value)) if value:
            yield ast.Constant(b"")
        case ast.JoinedStr() if " " not in ast.unparse(node):
            yield ast.Constant("")
        case ast.Return(ast.expr() as value) if not _is_plain(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call() | ast.Await()) | ast.Raise():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _is_type(node: ast.expr) -> bool:
    """Whether this is an operand of a union of types."""
    name = node.id if isinstance(node, ast.Name) else ""
    return (name[:1].isupper() and not name.isupper()) or (isinstance(node, ast.Constant) and node.value is None)


def _is_plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
