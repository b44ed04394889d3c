"""Whole maps of synthetic scenes: time from file to file, and utilisation of the device."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.roofline.gpu_use import START, GpuUse
from benchmarks.roofline.synthetic import write_scene
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.mapping.pipeline import map_concurrently

REPEATS = 5
# Seconds of repeated inference during which the GPU is sampled.
WATCHED_SECONDS = START + 6.0


def map_made(model: Model, folder: Path, height: int, width: int) -> dict[str, Any]:
    """Map a synthetic scene of height x width pixels with the model's bands, file to file, several times.

    Returns
    -------
    dict
        ``seconds``: the median of `REPEATS` maps after a warm-up map, and ``times``, the single ones; ``infer_s``: the
        median duration of the inference stage, including waiting; ``fed_share``: the share of that in which it did not
        wait for tiles.
    """
    scene, out = folder / f"made-{height}-{width}-{model.card.bands}.tif", folder / "classes.tif"
    if not scene.exists():
        write_scene(model.card, scene, height, width)
    times, stages = [], []
    for number in range(REPEATS + 1):
        started = time.perf_counter()
        result = map_scene(model, scene, out, overwrite=True)
        if number:
            times.append(time.perf_counter() - started)
            stages.append(next(stage for stage in result.profile if stage["stage"] == "infer"))
    lasted = [stage["busy_s"] + stage["waiting_for_input_s"] + stage["waiting_for_room_s"] for stage in stages]
    waited = sum(stage["waiting_for_input_s"] for stage in stages)
    return {
        "height": height,
        "width": width,
        "bands": model.card.bands,
        "seconds": median(times),
        "times": times,
        "us_per_pixel": 1e6 * median(times) / (height * width),
        "infer_s": median(lasted),
        "fed_share": 1 - waited / sum(lasted),
    }


def watch(model: Model, batches: Sequence[NDArray[np.float32]], kept: int) -> dict[str, float | None]:
    """Repeat inference alone, as in a map, and measure the utilisation of the GPU.

    Parameters
    ----------
    kept
        Output pixels of one tile.

    Returns
    -------
    dict
        ``us_per_pixel``, and ``gpu_share``: the share of that in which any kernel ran, None if not known.
    """
    done, started = 0, time.perf_counter()

    def endless() -> Iterator[NDArray[np.float32]]:
        for number, batch in enumerate(cycle(batches)):
            if number >= len(batches) and (model.gpu is None or time.perf_counter() - started > WATCHED_SECONDS):
                return
            yield batch

    with GpuUse(model.gpu) as use:
        for found in map_concurrently(model.run, endless(), model.runs):
            done += len(found.classes)
    seconds = time.perf_counter() - started
    return {"us_per_pixel": 1e6 * seconds / max(done * kept, 1), "gpu_share": use.share}


def busy_share(mapped: dict[str, Any], watched: dict[str, Any]) -> float | None:
    """Return the share of a map's inference in which the GPU computed; None if not known.

    It is the time of kernels per pixel, from inference alone, divided by the time of inference within the map.
    """
    if watched["gpu_share"] is None:
        return None
    kernels = 1e-6 * watched["us_per_pixel"] * watched["gpu_share"] * mapped["height"] * mapped["width"]
    return min(float(kernels / mapped["infer_s"]), 1.0)
