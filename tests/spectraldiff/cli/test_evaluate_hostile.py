"""`sdiff evaluate` with maps and names of others: files next to them, many classes, texts of any length."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff.cli.evaluate import WIDEST
from spectraldiff_runtime.cli import LONGEST_LINE, run
from spectraldiff_runtime.limits import COMPARED_CLASSES

PLACE = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 500_240, 0, -20, 4_480_260)}


def write(path: Path, values: np.ndarray) -> str:
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", **profile, **PLACE) as file:
        file.write(values, 1)
    return str(path)


@pytest.mark.parametrize("name", ["map.tif.aux.xml", "map.hdr", "labels.tif.ovr"])
@pytest.mark.parametrize("linked", [True, False])
def test_a_report_does_not_replace_a_part_of_its_inputs(tmp_path, capsys, name, linked):
    classes, labels = (write(tmp_path / f"{one}.tif", np.eye(4, dtype=np.uint8)) for one in ("map", "labels"))
    (tmp_path / name).write_text("mine")
    report = tmp_path / "report.html" if linked else tmp_path / name
    if linked:
        report.symlink_to(name)
    assert run(["evaluate", classes, "--labels", labels, "--report", str(report), "--overwrite"]) == 1
    assert "is the same file as a part of the input" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("count", [WIDEST, WIDEST + 1, COMPARED_CLASSES])
def test_as_many_classes_as_are_compared(tmp_path, capsys, count):
    """A matrix that no terminal has room for is not printed, and the report draws it in a picture of bounded size."""
    values = (1 + np.arange(1024) % count).reshape(32, 32).astype(np.uint16)
    path = write(tmp_path / "map.tif", values)
    assert run(["evaluate", path, "--labels", path, "--report", str(tmp_path / "report.html")]) == 0
    out = capsys.readouterr().out
    assert ("The confusion matrix of" in out) == (count > WIDEST)
    assert sum(line.split()[:1] == [str(count)] for line in out.splitlines()) == 1
    assert (tmp_path / "report.html").stat().st_size < 2**23
    assert run(["evaluate", path, "--labels", path, "--json"]) == 0
    assert np.trace(np.array(json.loads(capsys.readouterr().out)["confusion"])[:, 1:]) == 1024


def test_one_class_more_than_are_compared(tmp_path, capsys):
    values = (1 + np.arange(1024) % (COMPARED_CLASSES + 1)).reshape(32, 32).astype(np.uint16)
    path = write(tmp_path / "map.tif", values)
    assert run(["evaluate", path, "--labels", path]) == 1
    err = capsys.readouterr().err
    assert f"have {COMPARED_CLASSES + 1:,} classes: wanted {COMPARED_CLASSES:,} at most" in err


def test_a_line_has_a_limit(tmp_path, capsys):
    table = tmp_path / "labels.csv"
    table.write_text(",".join(f"c{number}" for number in range(LONGEST_LINE)) + "\n1,2\n")
    path = write(tmp_path / "map.tif", np.eye(4, dtype=np.uint8))
    assert run(["evaluate", path, "--labels", str(table)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < LONGEST_LINE + 10
    assert line.endswith("wanted columns lon and lat, x and y, or WKT")
