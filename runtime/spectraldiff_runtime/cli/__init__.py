"""The command line, ``sdiff``: one module a command, errors turned into one line and an exit code."""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

from spectraldiff_runtime import signals
from spectraldiff_runtime.errors import SpectralDiffError

INTERRUPTED = 130
# Exit codes after a signal, and what is said then.
ENDED = {INTERRUPTED: "interrupted", 128 + signal.SIGTERM: "terminated", 129: "hung up"}
# How soon a signal comes again where what it raised was lost.
AGAIN_SECONDS = 0.1
LONGEST_LINE = 4000  # characters of an error: names of others may have any length

# Module and summary of each command: a function, or an app of its own, of the command's name.
COMMANDS = {
    "train": ("spectraldiff.cli.train", "Train on a labelled scene and write a run folder."),
    "export": ("spectraldiff_export.cli", "Write a trained model as one file that needs no PyTorch."),
    "map": ("spectraldiff_runtime.cli.map", "Map scenes with a model file."),
    "suggest": ("spectraldiff_runtime.cli.suggest", "Say where a label would help a model most."),
    "view": ("spectraldiff.cli.view", "Write a page to look at a map over its scene, with spectra."),
    "evaluate": ("spectraldiff.cli.evaluate", "Compare a class map with labels."),
    "datasets": ("spectraldiff.cli.datasets", "List the benchmark scenes, or write one as a GeoTIFF."),
    "info": ("spectraldiff.cli.info", "Say what a model file, a raster or a run folder is."),
    "reconstruct": ("spectraldiff.cli.reconstruct", "Noise a part of the training scene and denoise it again."),
}


class LazyCommands(TyperGroup):
    """Imports a command's module when that command runs: help, version and the others wait for none of them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command as Typer does, which may fail, and replace the placeholder by the real one."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, stand_in if name is None else load_command(name), rest


def _new_app(**settings: Any) -> typer.Typer:
    """Return an app with plain help: drawing boxes would take longer than all else that `sdiff --help` does."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def load_command(name: str) -> Any:
    """Import the module of a command and return the command."""
    module, app = import_module(COMMANDS[name][0]), _new_app()
    app.callback()(_stand_in)  # or a single command would become the app itself
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name, cls=getattr(module, "COMMAND", None))(getattr(module, name))
    return get_group(app).commands[name]


def _stand_in() -> None:
    """Do nothing."""


app = _new_app(
    name="sdiff",
    cls=LazyCommands,
    help="Land-cover maps from hyperspectral scenes with spectral-spatial diffusion features.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(_stand_in)


def _print_version(wanted: bool) -> None:
    if wanted:
        from spectraldiff_runtime import __version__

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
    _open_streams()
    for number in signals.SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background, or with nohup
            signal.signal(number, _end)
    sys.unraisablehook = partial(_unraisable, sys.unraisablehook)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name or a coloured square that its encoding lacks
    try:
        code = run(sys.argv[1:])
    except SystemExit as ended:  # after SIGTERM, when outputs are cleaned up
        code = ended.code if isinstance(ended.code, int) else 1
    code = _flushed(code)
    if code in ENDED and code != INTERRUPTED:
        _say(f"sdiff: {ENDED[code]}")
    # Threads of ONNX Runtime, Numba or GDAL may be in mid-work: an orderly end of the interpreter can crash then. Those
    # of PyTorch can crash it after a training in several processes, and torchrun would call the training failed.
    if code in ENDED or "TORCHELASTIC_RUN_ID" in os.environ:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Put something under the numbers of stdin, stdout and stderr that are closed: or files would get them.

    What a library prints would go into such a file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
    sys.stdout = sys.stdout or _ClosedStdout()
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 (it stays open)


class _ClosedStdout(io.TextIOBase):
    """A stdout that was closed before the program began: a result cannot be printed, and that is an error."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "stdout is closed")


def _flushed(code: int) -> int:
    """Have stdout's last bytes written and return the exit code: 1 where they cannot be, with one line.

    After an error nothing more is said: it was the same one, where stdout is full.
    """
    try:
        sys.stdout.flush()
    except ValueError:  # closed already
        return code
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # or Python would try again, and print what it finds
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        said = code or isinstance(error, BrokenPipeError)
        return code or 1 if said else _fail(f"stdout cannot be written ({error.strerror})", 1)
    return code


_ends: list[BaseException] = signals.ENDS  # what signals raised


def _end(number: int, frame: Any) -> NoReturn:
    """End after SIGTERM as after Ctrl-C, so that unfinished outputs are removed."""
    _ends.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
    raise _ends[-1]


def _unraisable(otherwise: Callable[[Any], Any], lost: Any) -> None:
    """Raise once more what a signal raised where nothing can be raised, such as in a callback of a C library."""
    if lost.exc_value not in _ends:
        otherwise(lost)
        return
    code = getattr(lost.exc_value, "code", None)
    number = code - 128 if isinstance(code, int) else signal.SIGINT
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _run_app(arguments: Sequence[str]) -> Any:
    """Run one command; a signal stays one where a library turned it into an error of its own.

    C code that imports a module makes an ImportError of whatever ends that import.
    """
    try:
        return app(list(arguments), prog_name="sdiff", standalone_mode=False)
    except Exception as error:
        if _ends:
            raise _ends[0] from None
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
            # Typer takes it for the end of an answer to a question; no command asks any.
            raise SpectralDiffError(
                f"a compiled module of Python is cut short ({error.__cause__}): remove the folders '__pycache__' of "
                "this installation, which Python makes anew, and run the command again"
            ) from error
        raise


def run(arguments: Sequence[str]) -> int:
    """Run one command; print what went wrong on one line of stderr and return the exit code."""
    try:
        code = _run_app(arguments)
    except SpectralDiffError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        return 1
    except OSError as error:
        from spectraldiff_runtime.bad_luck import what_happened

        return _fail(what_happened(error), 1)
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        return _fail(f"there is not enough memory{what}: use a smaller --tile, --batch or scene", 1)
    except Exception as error:
        from spectraldiff_runtime.bad_luck import has_no_room, no_room

        if has_no_room(error):
            return _fail(no_room(error), 1)
        if not hasattr(error, "format_message"):  # Typer's usage errors have it, whatever their module
            raise
        return _fail(_usage(error), int(getattr(error, "exit_code", 2)))
    if code == INTERRUPTED:
        _say("sdiff: interrupted")
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sdiff"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"


def _fail(message: str, code: int) -> int:
    from spectraldiff_runtime.messages import one_line

    line = one_line(f"sdiff: error: {message}")
    _say(line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}")
    return code


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it too
        typer.echo(line, err=True)
