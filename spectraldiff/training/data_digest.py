"""What a training takes from its scenes as a whole, and what its reports say of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.cube import SceneCube
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import statistics_of
from spectraldiff.splits.split import Split
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import REQUEST, RunFolder
from spectraldiff_runtime.errors import RunError


def data_digests(scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> dict[str, str]:
    """Return a SHA-256 of what a training reads, by the words for it: each scene, its labels and training pixels."""
    found = {}
    for number, (scene, split) in enumerate(zip(scenes, splits, strict=True), start=1):
        name = f"'{scene.name}'" + (f" (scene {number})" if len(scenes) > 1 else "")
        valid = scene.valid
        labels = np.where(valid, scene.labels, 0).astype(np.uint16)
        names = json.dumps([c.name for c in scene.classes]).encode()
        on_disk = statistics_of(scene).digest if isinstance(scene.cube, SceneCube) else ""
        found[f"the scene {name}"] = on_disk or _digest([scene.cube, valid])
        found[f"the labels of {name}"] = _digest([labels], names)
        found[f"the training pixels of {name}"] = _digest([split.train])
    return found


def _digest(arrays: Sequence[NDArray[Any]], more: bytes = b"") -> str:
    digest = hashlib.sha256(more)
    for values in arrays:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        for row in values:
            digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def check_unchanged(begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RunError where what a training reads is not what it was begun with; see `data_digests`."""
    for what in [*begun, *now]:
        if begun.get(what) != now.get(what):
            raise RunError(f"{what} changed since the run was begun: restore the files to go on with it, or train anew")


def files_of(run: RunFolder) -> list[Path]:
    """Return the files of a run, and those that its training read where its run.json says: no output replaces them."""
    try:
        request = Request.from_json(run.read_json(REQUEST))
    except RunError:
        return run.files
    read = [name for one in request.scenes for name in (one.scene, *one.labels)]
    return [*run.files, *map(Path, [*read, *([] if request.test is None else [request.test])])]
