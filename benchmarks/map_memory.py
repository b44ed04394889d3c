"""Peak memory of `sdiff map`, of its process and the processes that it starts, against what --max-memory allows.

The first table maps a window of a scene with a large model, whose weights are random and whose bands are many, for each
limit and set of outputs. Only the first rows have data: the rest is read, gathered and written, but not inferred, which
takes most of the time and reaches its peak in the first row of tiles. The second table maps sparse scenes of growing
size with a tiny model; with --empty only their first rows have data.

Memory is read from /proc every 50 ms: the proportional share (PSS) of all processes together where there are several,
and the most that was resident of the first. So it runs on Linux only.

    python -m benchmarks.map_memory --folder /tmp/memory
    python -m benchmarks.map_memory --folder /tmp/memory --only sizes --megapixels 4 64 1024
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table

from benchmarks import tiny
from benchmarks.roofline.synthetic import write_models, write_scene
from spectraldiff.models.presets import PRESETS
from spectraldiff_runtime.model.model_file import read_card

LIMITS = ("500MB", "1GB", "2GB", "4GB")
OUTPUTS: dict[str, tuple[str, ...]] = {
    "classes": (),
    "confidence": ("--confidence",),
    "probabilities": ("--probabilities",),
    "preview": ("--preview",),
    "all": ("--confidence", "--probabilities", "--preview"),
}
BANDS, HEIGHT, WIDTH = 200, 500, 1500
ROWS, FULL = 400, 40  # rows that are mapped, the rows below are halo; and that have data
DATA = 4e6  # pixels of a sparse scene that have data
INTERVAL = 0.05


def empty_rows(path: Path, first: int) -> None:
    """Take the data out of a scene's rows from `first` on."""
    with rasterio.open(path, "r+") as file:
        file.nodata = 0
        rest = Window(0, first, file.width, file.height - first)
        for band in file.indexes:
            file.write(np.zeros((rest.height, rest.width), file.dtypes[0]), band, window=rest)


def sparse_scene(path: Path, side: int, rows: int | None = None) -> None:
    """Write an ENVI scene of side x side pixels, uint16, that takes no room on the disk.

    Its pixels are 0, as data; or only the first rows have data.
    """
    header = {
        "samples": side, "lines": side, "bands": tiny.BANDS, "header offset": 0, "file type": "ENVI Standard",
        "data type": 12, "interleave": "bil", "byte order": 0,
    }  # fmt: skip
    header |= {} if rows is None else {"data ignore value": 0}
    path.with_suffix(".hdr").write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in header.items()))
    with path.open("wb") as file:
        rng = np.random.default_rng(0)
        for _ in range(min(rows or 0, side)):
            file.write(rng.integers(1, 1000, tiny.BANDS * side).astype("<u2").tobytes())
        file.truncate(side * side * tiny.BANDS * 2)


def peak(line: Sequence[str], limit_s: float | None = None) -> dict[str, Any]:
    """Run a program; return its exit code, what it said, seconds, and the peak of it and its children (bytes).

    After `limit_s` seconds it is ended.
    """
    start, most, own = time.perf_counter(), 0, 0
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            pids = _family(process.pid)
            if len(pids) > 1:
                most = max(most, sum(_field(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids))
            own = max(own, _field(f"/proc/{process.pid}/status", "VmHWM:"))
            time.sleep(INTERVAL)
            if limit_s is not None and time.perf_counter() - start > limit_s:
                process.terminate()
        said = (process.stderr.read() if process.stderr else "").strip().splitlines()
    seconds = time.perf_counter() - start
    return {"code": process.returncode, "said": said[-1:], "seconds": seconds, "peak": max(most, own), "own": own}


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
    return found


def _field(path: str, name: str) -> int:
    """Return a figure of a process in bytes; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for row in Path(path).read_text().splitlines():
            if row.startswith(name):
                return 1024 * int(row.split()[1])
    return 0


def mapped(
    scene: Path, model: Path, limit: str, outputs: Sequence[str], *more: str, limit_s: float | None = None
) -> dict[str, Any]:
    """Map a scene and return how; the map is removed."""
    folder = scene.parent / "map"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    named = [
        part for name in outputs for part in (name, str(folder / ("map.png" if "view" in name else f"{name}.tif")))
    ]
    program = [sys.executable, "-m", "spectraldiff_runtime", "map", str(scene), "--model", str(model), "--quiet"]
    result = peak([*program, "--out", str(folder / "out.tif"), "--max-memory", limit, *named, *more], limit_s)
    shutil.rmtree(folder)
    print(limit, *outputs, json.dumps(result), file=sys.stderr, flush=True)
    return result


def measure_limits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Map the same window of a scene with each limit and set of outputs."""
    folder: Path = options.folder
    model, scene = folder / f"{options.preset}-fp32.onnx", folder / "scene.tif"
    if not model.exists():
        write_models(PRESETS[options.preset], folder, ["fp32"], BANDS)
    if not scene.exists():
        write_scene(read_card(model), scene, HEIGHT, WIDTH)
        empty_rows(scene, options.full)
    window = ("--window", "0", "0", str(WIDTH), str(options.rows))
    return [
        {"limit": limit, "outputs": name, **mapped(scene, model, limit, OUTPUTS[name], *window)}
        for limit in options.limits
        for name in options.outputs
    ]


def measure_sizes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Map sparse scenes of each size, with and without probabilities."""
    model, scene = options.folder / "tiny.onnx", options.folder / "sparse.img"
    tiny.write_model(model, options.classes)
    rows = []
    for megapixels in options.megapixels:
        side = round((megapixels * 1e6) ** 0.5)
        sparse_scene(scene, side, round(DATA / side) if options.empty else None)
        rows += [
            {
                "megapixels": megapixels,
                "outputs": name,
                **mapped(scene, model, "1GB", OUTPUTS[name], limit_s=options.seconds),
            }
            for name in options.outputs
        ]
    return rows


def show(rows: Sequence[dict[str, Any]], first: str) -> None:
    """Print a table on stderr."""
    table = Table(first, "outputs", "peak MB", "the process alone", "s", "exit", "said", box=None)
    for row in rows:
        sizes = f"{row['peak'] / 1e6:,.0f}", f"{row['own'] / 1e6:,.0f}"
        table.add_row(
            str(row[first]), row["outputs"], *sizes, f"{row['seconds']:.0f}", str(row["code"]), " ".join(row["said"])
        )
    Console(stderr=True, width=200).print(table)


def main() -> None:
    """Measure; print tables on stderr and JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", choices=["limits", "sizes"])
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--full", type=int, default=FULL, help="rows that have data")
    parser.add_argument("--classes", type=int, default=tiny.CLASSES, help="of the model for sparse scenes")
    parser.add_argument("--empty", action="store_true", help="4 million pixels of each sparse scene have data")
    parser.add_argument("--seconds", type=float, help="end maps of sparse scenes after so long")
    parser.add_argument("--limits", nargs="+", default=LIMITS)
    parser.add_argument("--outputs", nargs="+", choices=list(OUTPUTS), default=list(OUTPUTS))
    parser.add_argument("--megapixels", type=float, nargs="+", default=[4, 64])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if options.only != "sizes":
        found["limits"] = measure_limits(options)
        show(found["limits"], "limit")
    if options.only != "limits":
        found["sizes"] = measure_sizes(options)
        show(found["sizes"], "megapixels")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
