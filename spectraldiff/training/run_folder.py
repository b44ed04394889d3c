"""A run folder: everything that a training leaves behind, tensors in safetensors and facts in JSON, no pickle.

`run.json` says what was asked for and is written first, then `scenes.toml` with the list of several scenes, the
training and test pixels, and `data.json` with digests of what is read; `state.safetensors` holds a training that is not
finished; `model.safetensors`, `samples.safetensors` (some tiles of the scene, for checking an export) and, last of all,
`model.json` mark a finished one.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split
from spectraldiff_runtime.atomic import check_letters, output_error, remove_partial
from spectraldiff_runtime.classes import category_names, colour_table
from spectraldiff_runtime.errors import OutputError, RunError
from spectraldiff_runtime.gdal import GDAL_ERRORS, check_plain, quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.class_raster import write_class_raster
from spectraldiff_runtime.geotiff.sidecar import write_class_sidecar
from spectraldiff_runtime.messages import resume_command
from spectraldiff_runtime.untrusted import read_run_json
from spectraldiff_runtime.window import Window

REQUEST, DATA, FACTS, METRICS = "run.json", "data.json", "model.json", "metrics.json"
STATE, MODEL, SAMPLES = "state.safetensors", "model.safetensors", "samples.safetensors"
TRAIN_PIXELS, TEST_PIXELS, FIGURES = "train_pixels.tif", "test_pixels.tif", "figures"
REPORT, SCENES = "report.html", "scenes.toml"
LOCK = ".lock"
SUFFIXES = (".json", ".safetensors", ".tif", ".xml", ".toml", ".html", ".png")  # of the files in it


@dataclass(frozen=True)
class RunFolder:
    """A run folder on disk.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / FACTS).is_file()

    @property
    def begun(self) -> bool:
        """Whether a training began here."""
        return (self.path / REQUEST).is_file()

    @property
    def files(self) -> list[Path]:
        """The files that lie in it, without those of its folders."""
        return [path for path in self.path.iterdir() if path.is_file()]

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files; RunError where it is missing or damaged, SceneError for a pipe."""
        check_plain(self.path / name)
        try:
            value = read_run_json(self.path / name)
        except FileNotFoundError:
            raise RunError(self.missing(name)) from None
        except (OSError, ValueError) as error:
            raise RunError(f"'{self.path / name}' cannot be read ({error}): train again, or restore it") from None
        if not isinstance(value, dict):
            raise RunError(f"'{self.path / name}' holds no JSON object: train again, or restore it")
        return value

    def missing(self, name: str) -> str:
        """Return what an error says of a file that is not there."""
        if name == FACTS and self.begun:
            return (
                f"the run '{self.path}' is not finished (it has no {FACTS}): go on with `{resume_command(self.path)}`"
            )
        if self.finished:
            return f"the run '{self.path}' is damaged (it has no {name}): train again, or restore it"
        return f"'{self.path}' is no run folder (it has no {name}): name a folder that `sdiff train` wrote"

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, whole or not at all."""
        self.write_bytes(name, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        partial = self.path / f"{name}.partial"
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # or a name might come before its bytes, in a power cut
            partial.replace(self.path / name)
        except OSError as error:
            raise output_error(self.path / name, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def check_places(self) -> None:
        """Refuse links, pipes and devices in a folder that is written in, and folders where it has files.

        What is written would go elsewhere, or wait for a reader.

        Raises
        ------
        RunError
        """
        try:
            inside = [
                *self.path.iterdir(),
                *((self.path / FIGURES).iterdir() if (self.path / FIGURES).is_dir() else ()),
            ]
            for place in inside:
                kind = place.lstat().st_mode
                if stat.S_ISDIR(kind):
                    fits = place.suffix not in SUFFIXES
                else:
                    fits = stat.S_ISREG(kind) and place.name != FIGURES
                if not fits:
                    raise RunError(
                        f"'{place}' is a link, a pipe, or a folder in the place of a file, and nothing is written over "
                        "it: move it away"
                    )
        except OSError as error:
            raise RunError(f"'{self.path}' cannot be looked at ({error.strerror}): check who may read there") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock this folder for one training; the system releases the lock when the process ends, however it does.

        Raises
        ------
        RunError
            Another process holds it.
        OutputError
            The folder cannot be written.
        """
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"another process trains in '{self.path}': wait for its end, or stop it and go on with "
                f"`{resume_command(self.path)}`"
            ) from None
        except OSError as error:
            raise output_error(self.path / LOCK, error) from error
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what a killed training left of files that it was writing."""
        for folder in (self.path, self.path / FIGURES):
            for partial in folder.glob("*.partial") if folder.is_dir() else ():
                if partial.is_dir():
                    remove_partial(partial)
                else:
                    with contextlib.suppress(OSError):
                        partial.unlink()

    def drop_state(self) -> None:
        """Remove the state of a training that is finished."""
        (self.path / STATE).unlink(missing_ok=True)


def check_new(path: Path) -> None:
    """Raise OutputError where something is at `path` already, or the name is none that a run may have."""
    check_letters(path)
    if os.path.lexists(path) and not is_vacant(path):
        raise _taken(path)


def is_vacant(path: Path) -> bool:
    """Whether `path` is an empty folder, or one in which a training was killed before it had written anything whole."""
    try:
        return {file.name for file in path.iterdir()} <= {LOCK, f"{REQUEST}.partial"}
    except OSError:
        return False


def _taken(path: Path) -> OutputError:
    folder = RunFolder(path)
    if folder.finished:
        return OutputError(f"'{path}' exists and holds a finished run: give --run another name")
    if folder.begun:
        return OutputError(
            f"'{path}' exists and holds an unfinished run: go on with `{resume_command(path)}`, "
            "or give --run another name"
        )
    return OutputError(
        f"'{path}' exists and is no run folder: give --run the name of a folder that is empty or not there yet"
    )


def create_run(path: Path) -> RunFolder:
    """Make an empty run folder at `path`, or take one; OutputError where something is there or it cannot be made."""
    check_letters(path)
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        check_new(path)
    except OSError as error:
        raise output_error(path, error) from error
    return RunFolder(path)


def next_run(runs: Path, scene: str, preset: str) -> Path:
    """Return the path of the next run of its kind in `runs`: <scene>-<preset>-001, -002, ..."""
    stem = re.sub(r"[^\w.-]+", "-", f"{scene}-{preset}")
    taken = [int(p.name[-3:]) for p in runs.glob(f"{stem}-[0-9][0-9][0-9]")] if runs.is_dir() else []
    return runs / f"{stem}-{max(taken, default=0) + 1:03d}"


def newest_run(runs: Path) -> RunFolder:
    """Return the run in `runs` that finished last.

    Raises
    ------
    RunError
        There is none.
    """
    folders = [RunFolder(p.parent) for p in runs.glob(f"*/{FACTS}")] if runs.is_dir() else []
    if not folders:
        unfinished = sorted(p.parent for p in runs.glob(f"*/{REQUEST}")) if runs.is_dir() else []
        hint = f" ('{unfinished[-1]}' is not finished: `{resume_command(unfinished[-1])}`)" if unfinished else ""
        raise RunError(
            f"there is no finished run in '{runs}'{hint}: train one with `sdiff train`, or name one with --run"
        )
    return max(folders, key=lambda run: (str(run.read_json(FACTS).get("finished", "")), run.path.name))


def open_run(path: Path | None, runs: Path) -> RunFolder:
    """Return the run at `path`, or the newest finished one in `runs` where `path` is None."""
    if path is None:
        return newest_run(runs)
    if not path.is_dir():
        raise RunError(f"there is no run folder '{path}': name a folder that `sdiff train` wrote")
    return RunFolder(path)


def numbered(name: str, index: int, count: int) -> str:
    """Return a file's name for scene `index` (from 0) of `count`: ``map.png``, or ``map_1.png`` of several."""
    stem, dot, suffix = name.partition(".")
    return name if count == 1 else f"{stem}_{index + 1}{dot}{suffix}"


def write_pixels(
    run: RunFolder, scenes: LabelledScene | Sequence[LabelledScene], splits: Split | Sequence[Split]
) -> None:
    """Write the labels of the training and of the test pixels as class rasters into the run folder.

    Where no pixel of any scene tests, as with folds, there is no raster of test pixels; nor is there one of a scene
    without labels. Rasters that a run has already are replaced.
    """
    scenes, splits = (
        [scenes] if isinstance(scenes, LabelledScene) else scenes,
        [splits] if isinstance(splits, Split) else splits,
    )
    for index, (scene, split) in enumerate(zip(scenes, splits, strict=True)):
        if not scene.labelled:
            continue
        sides = [(TRAIN_PIXELS, split.train), (TEST_PIXELS, split.test)]
        for name, mask in sides if any(one.test.any() for one in splits) else sides[:1]:
            path = run.path / numbered(name, index, len(scenes))
            if scene.canvas is None:
                _write_on_map(path, np.where(mask, scene.labels, 0).astype(scene.labels.dtype), scene)
            else:
                write_sparse_labels(path, scene, np.where(mask, scene.labels, 0))


def write_sparse_labels(path: Path, scene: LabelledScene, labels: NDArray[Any]) -> None:
    """Write labels, (h, w) on the canvas of a large scene, as a class raster of the scene: what is 0 takes no room.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    (height, width), place = scene.cube.shape[:2], Georeference.of(scene.crs, scene.transform)
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": scene.labels.dtype, "nodata": 0,
        "crs": place.crs, "transform": place.transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate", "sparse_ok": True, "bigtiff": "if_safer",
    }  # fmt: skip
    names = json.dumps(category_names(scene.classes), ensure_ascii=False)
    try:
        with quiet_gdal(), rasterio.open(path, "w", **profile) as raster:
            raster.update_tags(CLASS_NAMES=names)
            if scene.labels.dtype == np.uint8:
                raster.write_colormap(1, colour_table(scene.classes))
            for part, (row, column) in scene.parts:
                values = labels[row : row + part.height, column : column + part.width].astype(scene.labels.dtype)
                window = RasterioWindow(part.col0, part.row0, part.width, part.height)
                if values.any():
                    raster.write(values, 1, window=window)
        write_class_sidecar(path, scene.classes)
    except GDAL_ERRORS as error:
        raise output_error(path, OSError(str(error))) from error


def _write_on_map(path: Path, labels: NDArray[Any], scene: LabelledScene) -> None:
    """Write labels of a scene's pixels, (H, W), where they lie on the map."""
    grid = scene.grid
    if grid is None:
        write_class_raster(path, labels, scene.classes, crs=scene.crs, transform=scene.transform, overwrite=True)
        return
    whole, place = grid.gather(labels, Window(0, grid.height, 0, grid.width)), grid.place
    crs = None if place.crs is None else str(place.crs.to_string())
    transform = tuple(place.transform)[:6]
    write_class_raster(path, whole, scene.classes, crs=crs, transform=transform, overwrite=True)
