"""One training from request to finished run folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split
from spectraldiff.training import data_digest
from spectraldiff.training.compute import Compute, choose_compute
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request
from spectraldiff.training.results import Result
from spectraldiff.training.run_folder import (
    DATA,
    REQUEST,
    RunFolder,
    create_run,
    next_run,
    open_run,
    write_pixels,
)
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.messages import resume_command, sdiff


def set_up(request: Request, threads: int | None, device: str | None, resumed: bool) -> tuple[Request, Compute]:
    """Set threads and device, those given, else those that the run was begun with; return the request that knows."""
    asked = threads or request.threads
    if asked is not None:
        torch.set_num_threads(asked)
    compute = choose_compute(request.device if device is None else device)
    used, place = torch.get_num_threads(), compute.device.type
    if resumed:
        return request.gone_on(used, place), compute
    return replace(request, threads=threads, device=device or "auto", used_threads=used, used_device=place), compute


def reopen(path: Path, given: dict[str, Any]) -> tuple[RunFolder, Request]:
    """Return the unfinished run at `path` and what it was asked for; options that are `given` anew are refused."""
    named = ["the scene" if k == "scene" else f"--{k.replace('_', '-')}" for k, v in given.items() if v is not None]
    if named:
        raise UsageError(f"--resume goes on with what the run was begun with: leave out {' and '.join(named)}")
    folder = open_run(path, path.parent)
    if folder.finished:
        raise RunError(f"the run '{path}' is finished: export it with `{sdiff('export', '--run', path)}`")
    return folder, Request.from_json(folder.read_json(REQUEST))


def check_unchanged(folder: RunFolder, scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> None:
    """Refuse to go on with other data than the run was begun with; runs of earlier versions do not know theirs."""
    if (folder.path / DATA).is_file():
        data_digest.check_unchanged(folder.read_json(DATA), data_digest.data_digests(scenes, splits))


def new_run(
    request: Request, scenes: Sequence[LabelledScene], splits: Sequence[Split], run: Path | None, runs_dir: Path
) -> RunFolder:
    """Make the run folder, with what was asked for and the pixels of both sides."""
    folder = create_run(run or next_run(runs_dir, scenes[0].name, request.preset.name))
    write_pixels(folder, scenes, splits)
    folder.write_json(DATA, data_digest.data_digests(scenes, splits))
    folder.write_json(REQUEST, request.to_json())
    return folder


def train(
    request: Request,
    folder: RunFolder,
    scenes: Sequence[LabelledScene],
    splits: Sequence[Split],
    compute: Compute,
    monitor: Monitor,
) -> Result:
    """Train into the run folder."""
    with folder.held():
        if Request.from_json(folder.read_json(REQUEST)).resumed != request.resumed:
            folder.write_json(REQUEST, request.to_json())
        monitor.message(f"Training the preset '{request.preset.name}' on {compute.device} into '{folder.path}'")
        try:
            training = Training(folder, scenes, splits, request.preset, request.seed, compute, monitor)
            return training.finish(request.compare_raw, request.command())
        except KeyboardInterrupt:
            monitor.message(f"Stopped; go on with `{resume_command(folder.path)}`")
            raise
