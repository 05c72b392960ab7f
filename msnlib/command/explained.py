"""In the kernel that grades: assertions that say what was expected and what came, and an ``exit()`` that ends nothing.

`install` is called from a start-up file of IPython's; see `msnlib.command.grading`.
"""

import ast
import builtins
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

LONGEST = 300  # characters of a value
_SAY = "_what_was_expected"
_SIGNS = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_NOTHING = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])


def install(shell: Any) -> None:
    """Make the assertions of all cells that ``shell`` runs explain themselves, and ``exit()`` an error."""
    setattr(builtins, _SAY, say)
    shell.ast_transformers.append(Explained())
    for name in ("exit", "quit"):
        shell.user_ns[name] = _exit
        setattr(builtins, name, _exit)


def _exit(code: Any = None) -> NoReturn:
    raise RuntimeError("exit() would end the program before everything is graded")


def say(expression: str, sign: str, came: Any, expected: Any, names: Callable[[], Mapping[str, Any]]) -> str:
    """Return the line of a failed test: what was expected of ``expression``, what came, and for which values."""
    if sign in ("==", "is"):
        line = f"{expression}: expected {_short(expected)}, came {_short(came)}"
    elif sign == "true":
        line = f"{expression}: expected to be true, came {_short(came)}"
    elif sign == "false":
        line = f"{expression}: expected to be false, came {_short(came)}"
    else:
        line = f"{expression}: expected {sign} {_short(expected)}, came {_short(came)}"
    try:
        values = {name: value for name, value in names().items() if isinstance(value, (int, float, str, tuple))}
    except Exception:  # a name of a comprehension's own
        values = {}
    return line + (f" (with {', '.join(f'{k} = {_short(v)}' for k, v in values.items())})" if values else "")


def _short(value: Any) -> str:
    try:
        text = value.__name__ if isinstance(value, type) else " ".join(repr(value).split())
    except Exception as error:  # a student's object may fail at anything
        text = f"a {type(value).__name__} whose repr fails with {type(error).__name__}"
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."


class Explained(ast.NodeTransformer):
    """Rewrites ``assert a == b, message``: both sides are kept, and a failure says what they are."""

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt] | ast.stmt:
        return [ast.fix_missing_locations(ast.copy_location(made, node)) for made in self._split(node.test, node.msg)]

    def _split(self, test: ast.expr, message: ast.expr | None) -> list[ast.stmt]:
        match test:
            case ast.BoolOp(op=ast.And(), values=parts):
                return [made for part in parts for made in self._split(part, message)]
            case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp(elt=body, generators=loops)], keywords=[]):
                if not any(loop.is_async for loop in loops):
                    return self._each(body, loops, message)
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                return self._checked(left, _SIGNS[type(operator)], right, operator, message)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._checked(operand, "false", None, None, message)
        return self._checked(test, "true", None, None, message)

    def _each(self, body: ast.expr, loops: list[ast.comprehension], message: ast.expr | None) -> list[ast.stmt]:
        """``all(body for ...)`` as loops in a function of their own, so that the first failure is named."""
        inner = self._split(body, message)
        for loop in reversed(loops):
            for condition in reversed(loop.ifs):
                inner = [ast.If(test=condition, body=inner, orelse=[])]
            inner = [ast.For(target=loop.target, iter=loop.iter, body=inner, orelse=[])]
        name = f"_each_{next(self.numbers)}"
        function = ast.FunctionDef(name=name, args=_NOTHING, body=inner, decorator_list=[], type_params=[])
        return [function, ast.Expr(ast.Call(func=ast.Name(name, ast.Load()), args=[], keywords=[]))]

    def _checked(
        self, left: ast.expr, sign: str, right: ast.expr | None, operator: ast.cmpop | None, message: ast.expr | None
    ) -> list[ast.stmt]:
        number = next(self.numbers)
        came, expected = f"_came_{number}", f"_expected_{number}"
        made: list[ast.stmt] = [_assign(came, left), _assign(expected, right or ast.Constant(None))]
        kept: ast.expr = ast.Name(came, ast.Load())
        if operator is not None:
            kept = ast.Compare(left=kept, ops=[operator], comparators=[ast.Name(expected, ast.Load())])
        elif sign == "false":
            kept = ast.UnaryOp(op=ast.Not(), operand=kept)
        used = {n.id for part in (left, right) if part for n in ast.walk(part) if isinstance(n, ast.Name)}
        names = ast.Dict(keys=[ast.Constant(n) for n in sorted(used)], values=[_load(n) for n in sorted(used)])
        values = [ast.Constant(ast.unparse(left)), ast.Constant(sign), _load(came), _load(expected)]
        text: ast.expr = ast.Call(_load(_SAY), [*values, ast.Lambda(args=_NOTHING, body=names)], [])
        if message is not None:
            text = ast.JoinedStr([ast.FormattedValue(message, -1), ast.Constant(" · "), ast.FormattedValue(text, -1)])
        return [*made, ast.Assert(test=kept, msg=text)]


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _assign(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign(targets=[ast.Name(name, ast.Store())], value=value)
