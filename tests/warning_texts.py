"""The texts of warnings, found in the source: what tests of them walk."""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = 25  # characters
GAP = "\0"


def texts(packages: Sequence[str], others: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield where each warning's text stands, and the text, with `GAP` for what is put into it.

    Parameters
    ----------
    packages
        Folders below the root.
    others
        Functions whose texts are none of warnings.
    """
    for path in [path for package in packages for path in sorted((ROOT / package).glob("*.py"))]:
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            for function, line, text in _texts_in(statement, ""):
                if function not in others:
                    yield f"{path.relative_to(ROOT)}:{line} {function}", text


def pattern_of(text: str) -> re.Pattern[str]:
    """Return a pattern that finds a text whatever is put into it."""
    return re.compile(".*?".join(re.escape(part) for part in text.split(GAP)))


def _texts_in(node: ast.AST, function: str) -> Iterator[tuple[str, int, str]]:
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")):
        return
    if isinstance(node, ast.FunctionDef):
        if node.returns is not None and "Error" in ast.unparse(node.returns):
            return
        function = node.name
    if isinstance(node, ast.JoinedStr):
        yield from _text(node, function, [v.value if isinstance(v, ast.Constant) else GAP for v in node.values])
    elif isinstance(node, ast.Constant):
        yield from _text(node, function, [node.value])
    elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):  # no docstring
        for child in ast.iter_child_nodes(node):
            yield from _texts_in(child, function)


def _text(node: ast.expr, function: str, parts: list[object]) -> Iterator[tuple[str, int, str]]:
    if function and all(isinstance(part, str) for part in parts):
        text = "".join(map(str, parts))
        if len(text.replace(GAP, "")) >= LONG and " " in text:
            yield function, node.lineno, text
