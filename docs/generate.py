"""Writes docs/api.md from the docstrings and docs/cli.md from the commands: ``python -m docs.generate``."""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import spectraldiff as sd
import spectraldiff_runtime
from spectraldiff_runtime import cli

PAGE = Path(__file__).with_name("api.md")
COMMAND_PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Python API

<!-- Written by docs/generate.py from the docstrings: change them, and run `make docs`. -->

`import spectraldiff as sd` has a function for each command of `sdiff`, with the same defaults. `import
spectraldiff_runtime` is the half that maps and needs no PyTorch. Errors are exceptions under `SpectralDiffError`;
warnings go to `warnings.warn`, or to `warn` where a function takes it.
"""
COMMAND_HEAD = """# Commands

<!-- Written by docs/generate.py from the commands: change them, and run `make docs`. -->

`--help` behind a command prints the same. Results go to files, and with `--json` to stdout; progress, warnings and the
summary go to stderr. Exit codes: 0 done, 1 failed with one line that says why, 2 an option that is wrong, 130 after
Ctrl-C.
"""
FIRST = ("open_labelled", "open_dataset", "list_datasets", "train", "resume", "open_run", "export", "map_scene",
         "suggest", "view", "evaluate", "reconstruct", "info")  # fmt: skip
SECTION = re.compile(r"^(\w[\w ]*)\n-+\n", re.MULTILINE)


def page() -> str:
    """Return the whole page."""
    classes = [name for name in sd.__all__ if name not in FIRST and not name.startswith("__")]
    parts = [HEAD, "## Functions\n", *(entry("sd", sd, name) for name in FIRST)]
    parts += ["## Results and data\n", *(entry("sd", sd, name) for name in classes)]
    parts += ["## Mapping alone\n", entry("spectraldiff_runtime", spectraldiff_runtime, "map_scene")]
    return "\n".join(parts)


def entry(package: str, module: Any, name: str) -> str:
    """Return the part of the page on one function or class."""
    thing = getattr(module, name)
    text = inspect.getdoc(thing) or ""
    lines = [f"### {package}.{name}\n"]
    if inspect.isfunction(thing):
        lines.append(f"```python\n{signature(f'{package}.{name}', thing)}\n```\n")
    return "\n".join([*lines, markdown(text), *methods(thing)])


def signature(name: str, function: Any) -> str:
    """Return a function's head: its annotations as they are written, and the defaults' values."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    arguments = [*tree.args.args, *tree.args.kwonlyargs, *([tree.args.kwarg] if tree.args.kwarg else [])]
    written = {a.arg: ast.unparse(a.annotation).strip("'") for a in arguments if a.annotation}
    words, keyword = [], False
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not keyword:
            words, keyword = [*words, "*"], True
        stars = "**" if one.kind is one.VAR_KEYWORD else ""
        words.append(f"{stars}{one.name}: {written.get(one.name, 'Any')}{default(one.default)}")
    returned = ast.unparse(tree.returns).strip("'") if tree.returns else "None"
    return f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f") -> {returned}"


def default(value: Any) -> str:
    """Return a default as it is typed; empty for none."""
    if value is inspect.Parameter.empty:
        return ""
    if inspect.isfunction(value):
        return " = warnings.warn"
    return f" = {str(value)!r}" if isinstance(value, Path) else f" = {value!r}"


def markdown(docstring: str) -> str:
    """Return a docstring in numpydoc's form as Markdown."""
    head, *rest = SECTION.split(docstring)
    parts = [code(head.strip()) + "\n"]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        shown = f"```python\n{body.strip()}\n```" if title == "Examples" else items(body.strip("\n"))
        parts.append(f"**{title}**\n\n{shown}\n")
    return "\n".join(parts)


def items(body: str) -> str:
    """Return the entries of a section, each with what is indented below it, as a list."""
    lines: list[str] = []
    for line in body.splitlines():
        if line.startswith(" ") and lines:
            colon = "" if lines[-1].endswith(":") or not lines[-1].startswith("- ") or ": " in lines[-1] else ":"
            lines[-1] = f"{lines[-1]}{colon} {line.strip()}"
        elif line.strip():
            lines.append("- " + ", ".join(f"`{name.strip()}`" for name in line.split(",")))
    return code("\n".join(lines))


def code(text: str) -> str:
    """Turn the double backticks of numpydoc into single ones."""
    return text.replace("``", "`")


def methods(thing: Any) -> list[str]:
    """Return a list of a class's own public methods and properties, one line each."""
    if not inspect.isclass(thing):
        return []
    found = []
    for name, value in vars(thing).items():
        value = getattr(value, "__func__", value)
        doc = inspect.getdoc(value)
        known = inspect.isfunction(value) or isinstance(value, property)
        if known and doc and not name.startswith("_") and not dataclasses.is_dataclass(value):
            found.append(f"- `.{name}{'' if isinstance(value, property) else '()'}`: {code(doc.splitlines()[0])}")
    return ["\n".join(["**Methods and properties**", "", *found, ""])] if found else []


def command_page() -> str:
    """Return the page of all commands with their arguments and options."""
    return "\n".join([COMMAND_HEAD, *(command(f"sdiff {name}", cli.load_command(name)) for name in cli.COMMANDS)])


def command(name: str, found: Any) -> str:
    """Return the part of the page on one command, and on those below it."""
    context = found.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *found.collect_usage_pieces(context)])
    parts = [f"## {name}\n", f"```\n{usage}\n```\n", f"{inspect.cleandoc(found.help)}\n"]
    rows = [one.get_help_record(context) for one in found.params]
    shown = [(names, re.sub(r"\s+", " ", text)) for names, text in filter(None, rows)]
    if shown:
        parts.append("| Argument or option | |\n|---|---|")
        parts.append("".join(f"| `{cell(names)}` | {cell(text)} |\n" for names, text in shown))
    parts += [command(f"{name} {below}", inner) for below, inner in getattr(found, "commands", {}).items()]
    return "\n".join(parts)


def cell(text: str) -> str:
    """Return text of a table's cell, in which a bar would end it."""
    return text.replace("|", "/").strip()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    COMMAND_PAGE.write_text(command_page(), "utf-8")
