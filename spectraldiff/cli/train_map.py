"""`sdiff train --map`: the scene of a training is mapped at its end, by the model file, as `sdiff map` does it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.messages import sdiff

if TYPE_CHECKING:
    from spectraldiff.api.progress import BarMonitor
    from spectraldiff.training.request import Request
    from spectraldiff_runtime.mapping.request import Region
    from spectraldiff_runtime.mapping.result import MapResult
    from spectraldiff_runtime.scene.protocol import Scene
    from spectraldiff_runtime.tiling.plan import Plan

# What PyTorch, and what a training leaves in memory, take beyond what a map is planned with, on systems that do not say
# what a process holds: a guess.
MEGABYTE = 10**6
TRAINING = 600 * MEGABYTE


def check_map(request: "Request", out: Path) -> None:
    """Refuse a map that cannot be, before the training begins.

    Raises
    ------
    UsageError
        There is not one own scene.
    OutputError
        The name cannot be written: it is there, has another suffix, or is an input; or its map is unfinished.
    """
    from spectraldiff_runtime.atomic import check_distinct, check_output
    from spectraldiff_runtime.formats.kinds import check_map_name
    from spectraldiff_runtime.output.journal import has_unfinished_map, unfinished_folder

    if request.dataset is not None:
        raise UsageError(f"--map is for your own scene, and '{request.dataset}' is a benchmark scene: leave it out")
    if len(request.scenes) > 1:
        many = sdiff("map", "SCENES", "--out-dir", "maps")
        raise UsageError(f"--map takes one scene and there are {len(request.scenes)}: export the run, then `{many}`")
    scene = request.scenes[0]
    check_distinct({"--map": out}, [Path(scene.scene), *map(Path, scene.labels)])
    check_map_name(out, "--map")
    check_output(out, False)
    if has_unfinished_map(out):
        raise OutputError(
            f"'{unfinished_folder(out)}' holds an unfinished map of '{out}': finish it or remove it, or give --map "
            "another name"
        )


def map_trained(run: Path, request: "Request", out: Path, memory: int, monitor: "BarMonitor") -> "MapResult":
    """Export a finished run to a temporary file, which verifies it, and map the run's scene by it.

    Parameters
    ----------
    run
        Its folder.
    request
        What it was asked for: its scene, and how that is read.
    out
        The map, see `check_map`.
    memory
        Bytes that the process may hold.

    Raises
    ------
    VerificationError, SceneError, OutputError
        As of `sdiff export` and `sdiff map`. The run is whole.
    """
    import torch

    import spectraldiff as sd
    from spectraldiff_runtime.formats.kinds import passes
    from spectraldiff_runtime.mapping.map_scene import map_scene
    from spectraldiff_runtime.model.engine import Model

    done = total = 0

    def begun(scene: "Scene", region: "Region", plan: "Plan") -> None:
        nonlocal total
        total = passes(out) * region.window.height * region.window.width

    def advance(more: int) -> None:
        nonlocal done
        done += more
        monitor.progress(done, total)

    with tempfile.TemporaryDirectory(prefix="spectraldiff-") as folder:
        monitor.stage("Export", "")
        file = Path(folder) / "model.onnx"
        sd.export(run, file)
        model = Model.open(file, request.device, torch.get_num_threads())
        monitor.stage(f"Map '{out.name}'", "pixels")
        held = _held()
        try:
            return map_scene(
                model,
                request.scenes[0].scene,
                out,
                bands=request.bands,
                nodata=request.nodata,
                clouds=request.clouds,
                max_memory=memory - held,
                started=begun,
                progress=advance,
                warn=monitor.warn,
            )
        except UsageError as error:
            if "--max-memory" not in str(error):
                raise
            export = sdiff("export", "--run", run, "--out", "model.onnx")
            raise UsageError(
                f"the training holds {held // MEGABYTE}MB of --max-memory {memory // MEGABYTE}MB, which leaves too "
                f"little for the map; the run is whole: `{export}`, then map the scene by `sdiff map`"
            ) from error


def _held() -> int:
    """Return the bytes that this process holds beyond what a map is planned with."""
    from spectraldiff_runtime.model.memory_guard import STATUS, held_memory, trim_heap
    from spectraldiff_runtime.tiling.memory_plan import BASE

    trim_heap()
    return max(0, held_memory() - BASE) if STATUS.exists() else TRAINING
