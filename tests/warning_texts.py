"""The texts of warnings, found in the source: what tests of them walk.

A text that no error is made of may be one of a warning, unless it is short; one that is handed to what warns, or is put
into the warnings or the note of a scene or a result, is one, however short.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = 25  # characters
GAP = "\0"
WARNS = re.compile(r"_?warn")  # functions
KEEPS = re.compile(r"_?(pending_)?(warnings?|notes?)")  # names, attributes and keywords


def texts(packages: Sequence[str], others: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield where each warning's text stands, and the text, with `GAP` for what is put into it.

    Parameters
    ----------
    packages
        Folders below the root.
    others
        Functions whose texts are none of warnings: ``name``, or ``module.name``.
    """
    for path in [path for package in packages for path in sorted((ROOT / package).glob("*.py"))]:
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            for function, line, text in _texts_in(statement, ""):
                if not {function, f"{path.stem}.{function}"} & set(others):
                    yield f"{path.relative_to(ROOT)}:{line} {function}", text


def pattern_of(text: str) -> re.Pattern[str]:
    """Return a pattern that finds a text whatever is put into it."""
    return re.compile(".*?".join(re.escape(part) for part in text.split(GAP)))


def _texts_in(node: ast.AST, function: str, least: int = LONG) -> Iterator[tuple[str, int, str]]:
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")):
        return
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef):
        if node.returns is not None and "Error" in ast.unparse(node.returns):
            return
        function, children = node.name, iter(node.body)  # help of options stands among the parameters
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else GAP for v in node.values]
        yield from _text(node, function, parts, least)
    elif isinstance(node, ast.Constant):
        yield from _text(node, function, [node.value], least)
    elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):  # no docstring
        for child in children:
            yield from _texts_in(child, function, 1 if _says(node) else least)


def _says(node: ast.AST) -> bool:
    """Say whether what is below a node is told to a user, as far as it is text."""
    if isinstance(node, ast.Call):
        return WARNS.fullmatch(ast.unparse(node.func).rpartition(".")[2]) is not None
    names: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        names = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        names = [node.target]
    found = [ast.unparse(name).rpartition(".")[2] for name in names]
    found += [node.arg or ""] if isinstance(node, ast.keyword) else []
    return any(map(KEEPS.fullmatch, found))


def _text(node: ast.expr, function: str, parts: list[object], least: int) -> Iterator[tuple[str, int, str]]:
    if function and all(isinstance(part, str) for part in parts):
        text = "".join(map(str, parts))
        if len(text.replace(GAP, "")) >= least and " " in text and re.search(r"[a-z]", text):
            yield function, node.lineno, text
