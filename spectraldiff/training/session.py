"""One training from request to finished run folder: what the command and the Python function call."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rasterio
import torch

from spectraldiff.data.cube import SceneCube
from spectraldiff.data.merge_scenes import remarks_of
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import scene_list
from spectraldiff.models.normaliser import common_normaliser
from spectraldiff.options import RUNS
from spectraldiff.processes.group import ONE, LostProcessError, Processes
from spectraldiff.splits.label_counts import count_labels, doubts
from spectraldiff.splits.split import Split
from spectraldiff.training import data_digest
from spectraldiff.training.compute import Compute, choose_compute, keep_freed_memory
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request
from spectraldiff.training.results import Result
from spectraldiff.training.run_folder import (
    DATA,
    FACTS,
    REQUEST,
    SCENES,
    RunFolder,
    check_new,
    create_run,
    is_vacant,
    next_run,
    open_run,
    write_pixels,
)
from spectraldiff.training.run_model import load_denoiser
from spectraldiff.training.trainer import Aims, Exported, Training
from spectraldiff.training.training_data import pool_bytes
from spectraldiff_runtime.atomic import check_letters
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.limits import THREADS
from spectraldiff_runtime.messages import resume_command, sdiff
from spectraldiff_runtime.tiling.memory_plan import DEFAULT_MEMORY, MEGABYTE
from spectraldiff_runtime.validation import as_int, as_int_or_none

# What a training holds besides scenes and features: PyTorch, networks and their steps, blocks of scenes on disk.
LEAST_MEMORY = 1500 * MEGABYTE
CACHE = 64 * MEGABYTE  # GDAL's


@dataclass(frozen=True)
class RunPlace:
    """Where a training is written, and what it computes on.

    Attributes
    ----------
    run
        The folder to make; None for the next one in `runs_dir`.
    runs_dir
        The folder that holds the runs.
    unfinished
        The run to go on with, from `reopen`; None for a new one.
    threads, device
        CPU threads, and ``"auto"``, ``"cpu"`` or ``"cuda"``; None for those that the run was begun with, or all
        threads and ``"auto"``.
    warning
        What a user must know of the options of a new run; empty for nothing.
    max_memory
        Bytes that the process may hold: what more labelled pixels take lies on disk meanwhile.
    exported
        See `spectraldiff.training.trainer.Aims`.
    """

    run: Path | None = None
    runs_dir: Path = RUNS
    unfinished: RunFolder | None = None
    threads: int | None = None
    device: str | None = None
    warning: str = ""
    max_memory: int = DEFAULT_MEMORY
    exported: Exported | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_memory", as_int("max_memory", self.max_memory))
        if self.max_memory < LEAST_MEMORY:
            raise UsageError(
                f"--max-memory {self.max_memory // MEGABYTE}MB does not hold a training: give at least "
                f"{LEAST_MEMORY // MEGABYTE}MB"
            )
        threads = as_int_or_none("threads", self.threads)
        if threads is not None and not 1 <= threads <= THREADS:
            raise UsageError(f"threads is {threads}: wanted 1 to {THREADS:,}")
        object.__setattr__(self, "threads", threads)
        if self.device not in (None, "auto", "cpu", "cuda"):
            raise UsageError(f"device is '{self.device}': wanted auto, cpu or cuda")


def train(
    request: Request,
    place: RunPlace,
    monitor: Monitor,
    scenes: Sequence[LabelledScene] | None = None,
    processes: Processes = ONE,
) -> tuple[RunFolder, Result]:
    """Train from request to finished run folder.

    Parameters
    ----------
    request
        What is asked for, from `spectraldiff.training.request.new_request` or `reopen`.
    place
        Where the run goes and what it computes on.
    monitor
        Told of data, progress and warnings.
    scenes
        The request's scenes where they are read already; None reads them.
    processes
        Those that share the batches of both networks; this is the first.

    Raises
    ------
    SpectralDiffError
        Of any kind; nothing is written before the data are read, checked and split.
    """
    keep_freed_memory()
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        folder = place.unfinished
        if folder is None:
            _check_before(request, place, monitor)
        request, compute = _set_up(request, place, processes)
        if scenes is None:
            scenes = request.load_scenes()
        else:
            request.check_files()
            scenes = request.prepared(scenes)
        scenes = (replace(scenes[0], remarks=(*scenes[0].remarks, *request.resumed)), *scenes[1:])
        splits, final = request.make_splits(scenes), request.final_splits(scenes)
        kept = final or splits
        prior, test = request.prior_of(scenes[0].classes), request.test_labels(scenes, kept)
        denoiser = None if request.denoiser is None or request.preset.raw else Path(request.denoiser)
        aims = Aims(prior, final, test, denoiser, _left_for_features(scenes, place.max_memory), place.exported)
        if folder is not None:
            _go_on(folder, request, scenes, splits, kept)
        elif denoiser is not None:  # refused before a run is begun
            load_denoiser(denoiser, request.preset, common_normaliser(scenes)[0])
        _show(scenes, splits, monitor)
        _warn(() if test is None else test.notes, monitor)
        folder = folder or _new_run(request, scenes, splits, kept, place)
        with _held(folder, request, monitor):
            monitor.message(f"Training the preset '{request.preset.name}' on {compute.device} into '{folder.path}'")
            training = Training(folder, scenes, splits, request.preset, request.seed, compute, monitor, aims)
            result = training.finish(request.compare_raw, request.command(folder.path / SCENES))
        _warn((result.temperature.note, request.fewer_components(folder.read_json(FACTS))), monitor)
        return folder, result


def _left_for_features(scenes: Sequence[LabelledScene], most: int) -> int:
    """Return the bytes that features may take of `most`; UsageError where the scenes that are held leave none."""
    held: int = sum(scene.cube.nbytes for scene in scenes if not isinstance(scene.cube, SceneCube))
    held += pool_bytes(scenes)
    if LEAST_MEMORY + held > most:
        least = -(-(LEAST_MEMORY + held) // MEGABYTE)
        raise UsageError(
            f"--max-memory {most // MEGABYTE}MB does not hold the scenes, {held // MEGABYTE}MB: give at least {least}MB"
        )
    return max(most - held - LEAST_MEMORY, MEGABYTE)


def reopen(path: Path, given: Sequence[str] = ()) -> tuple[RunFolder, Request]:
    """Return the unfinished run at `path` and what it was asked for.

    Raises
    ------
    UsageError
        Options are `given` anew.
    RunError
        There is no run, it is finished or damaged, or holds links or pipes.
    """
    if given:
        raise UsageError(f"--resume goes on with what the run was begun with: leave out {' and '.join(given)}")
    folder = open_run(path, path.parent)
    if is_vacant(path):
        raise RunError(f"'{path}' is empty, no training has begun there: train anew, with --run {path}")
    folder.check_places()
    if folder.finished:
        with folder.held():  # which removes what was being written
            folder.drop_state()
        raise RunError(f"the run '{path}' is finished: export it with `{sdiff('export', '--run', path)}`")
    return folder, Request.from_json(folder.read_json(REQUEST))


def _check_before(request: Request, place: RunPlace, monitor: Monitor) -> None:
    for text in _texts(request.to_json()):
        check_letters(Path(text))
    if place.run is not None:
        check_new(place.run)
    _warn((place.warning,), monitor)


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _set_up(request: Request, place: RunPlace, processes: Processes) -> tuple[Request, Compute]:
    """Set threads and device, those given, else those that the run was begun with; return the request that knows."""
    asked = place.threads or request.threads
    if asked is not None:
        torch.set_num_threads(asked)
    compute = choose_compute(request.device if place.device is None else place.device, processes)
    batch, trains = request.preset.diffusion.loop.batch, not request.preset.raw and request.denoiser is None
    if trains and min(compute.shares(batch)) < processes.count:
        raise UsageError(
            f"there are {processes.count} processes for {min(compute.shares(batch))} instances: wanted one for each at "
            f"least; start fewer, or give a larger --diffusion-batch than {batch}"
        )
    threads, device = torch.get_num_threads(), compute.device.type
    if processes.count > 1:
        device += f" in each of {processes.count} processes"
    if place.unfinished is not None:
        return request.gone_on(threads, device), compute
    begun: dict[str, Any] = {"used_threads": threads, "used_device": device}
    return replace(request, threads=place.threads, device=place.device or "auto", **begun), compute


def _go_on(
    folder: RunFolder,
    request: Request,
    scenes: Sequence[LabelledScene],
    splits: Sequence[Split],
    kept: Sequence[Split],
) -> None:
    """Refuse to go on with other data than the run was begun with.

    Where the run was cut off before it had noted them, or is of an earlier version, which did not, they are noted now.
    """
    digests = data_digest.data_digests(scenes, splits)
    if (folder.path / DATA).is_file():
        data_digest.check_unchanged(folder.read_json(DATA), digests)
    else:
        _note_data(folder, request, scenes, kept, digests)


def _note_data(
    folder: RunFolder,
    request: Request,
    scenes: Sequence[LabelledScene],
    kept: Sequence[Split],
    digests: Mapping[str, str],
) -> None:
    """Write the list of several scenes, the pixels of both sides and, last, the digests of what is read."""
    if len(request.scenes) > 1:
        folder.write_bytes(SCENES, scene_list(request.scenes).encode())
    write_pixels(folder, scenes, kept)
    folder.write_json(DATA, digests)


def _show(scenes: Sequence[LabelledScene], splits: Sequence[Split], monitor: Monitor) -> None:
    """Say what the training begins with: scenes, labels of each class, and what is doubtful in them."""
    counts = count_labels(scenes, splits)
    monitor.data(scenes, splits, counts)
    _warn((*remarks_of(scenes), *splits[0].notes, *doubts(counts)), monitor)


def _warn(lines: Iterable[str], monitor: Monitor) -> None:
    for line in filter(None, lines):
        monitor.warn(line)


def _new_run(
    request: Request,
    scenes: Sequence[LabelledScene],
    splits: Sequence[Split],
    kept: Sequence[Split],
    place: RunPlace,
) -> RunFolder:
    """Make the run folder, with what was asked for and the pixels of both sides; `kept` train the model that is kept.

    A split of its own for these leaves no pixels that never trained. What was asked for comes first: with it, a run
    can be gone on with.
    """
    folder = create_run(place.run or next_run(place.runs_dir, scenes[0].name, request.preset.name))
    with folder.held():
        check_new(folder.path)  # another training may have begun here
        folder.write_json(REQUEST, request.to_json())
    _note_data(folder, request, scenes, kept, data_digest.data_digests(scenes, splits))
    return folder


@contextmanager
def _held(folder: RunFolder, request: Request, monitor: Monitor) -> Iterator[None]:
    """Keep a run folder for this training, with the request as it is now; say how to go on where it is stopped."""
    with folder.held():
        if Request.from_json(folder.read_json(REQUEST)).resumed != request.resumed:
            folder.write_json(REQUEST, request.to_json())
        try:
            yield
        except KeyboardInterrupt:
            monitor.message(f"Stopped; go on with `{resume_command(folder.path)}`")
            raise
        except LostProcessError as error:
            raise RunError(f"{error}: go on with `{resume_command(folder.path)}`") from error
