"""The command line, ``sdiff``: one module a command, errors turned into one line and an exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from ..errors import SpectralDiffError
from . import datasets, evaluate, export, info, map, reconstruct, train
from .options import one_line

INTERRUPTED = 130

app = typer.Typer(
    name="sdiff",
    help="Land-cover maps from hyperspectral scenes with spectral-spatial diffusion features.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command()(export.export)
app.command()(map.map)
app.command()(evaluate.evaluate)
app.add_typer(datasets.app, name="datasets")
app.command()(info.info)
app.command()(reconstruct.reconstruct)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"sdiff {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def sdiff(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Land-cover maps from hyperspectral scenes with spectral-spatial diffusion features."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main() -> NoReturn:
    """Run ``sdiff`` and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    with contextlib.suppress(ValueError):  # stdout is closed already
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _terminate(number: int, frame: Any) -> NoReturn:
    """End as after Ctrl-C, so that unfinished outputs are removed."""
    raise SystemExit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Run one command; print what went wrong on one line of stderr and return the exit code."""
    try:
        code = app(list(arguments), prog_name="sdiff", standalone_mode=False)
    except SpectralDiffError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        return 1
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        return _fail(f"there is not enough memory{what}: use a smaller --tile, --batch or scene", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's usage errors have it, whatever their module
            raise
        return _fail(_usage(error), int(getattr(error, "exit_code", 2)))
    if code == INTERRUPTED:
        typer.echo("sdiff: interrupted", err=True)
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sdiff"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"


def _fail(message: str, code: int) -> int:
    typer.echo(one_line(f"sdiff: error: {message}"), err=True)
    return code
