"""The documentation site builds without a warning, and each command of its examples runs."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from docs import generate
from spectraldiff.models.presets import FAST, PRESETS
from spectraldiff.models.settings import replaced
from spectraldiff_runtime.cli import run
from tests.runtime.products import builders
from tests.spectraldiff.cli.test_products import polygons

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.md"))
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What makes a training of the examples short; all else is as the page says.
SHORT = ["--features", "raw", "--epochs", "1", "--components", "5", "--threads", "1", "--device", "cpu"]
SMALL = replaced(
    FAST,
    classifier={
        "members": (replace(FAST.classifier.members[0], window=9),),
        "network": {"width": 16, "heads": 2, "mlp": 24},
    },
    smoothing={"iterations": 1},
)


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks."""
    return [line for block in SHELL.findall(page.read_text("utf-8")) for line in block.splitlines() if line]


def test_the_site_builds_without_a_warning(tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, env=subprocess_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING " not in done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    sources = (path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md"))
    assert {path.as_posix() for path in sources} <= pages
    home = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', home)  # nothing from elsewhere


def test_the_page_of_commands_is_up_to_date() -> None:
    assert generate.COMMAND_PAGE.read_text("utf-8") == generate.command_page(), "run `make docs`"


def products(folder: Path) -> None:
    """Write two EnMAP products of one place as zips, with polygons of fields and others to check with."""
    for name, seed in (("spring", 3), ("summer", 4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builders, "SEED", seed)
            made = builders.enmap(folder / name)
        builders.zipped(folder / name, folder / f"{name}.zip")
    for name in ("fields", "check"):
        polygons(folder / f"{name}.gpkg", made)


def flight_lines(folder: Path) -> None:
    """Write three overlapping lines of one scene, and crowns on the first two."""
    cube, place = builders.values(12, "uint16", (40, 60)), builders.PLACE
    (folder / "lines").mkdir()
    for number, first in enumerate((0, 15, 30), start=1):
        path, there = folder / "lines" / f"line_{number}.tif", place @ rasterio.Affine.translation(first, 0)
        builders.write_tif(path, cube[:, first : first + 30], transform=there)
    # Crowns of 4 x 4 pixels, of three species in turn.
    at = [(column, row) for column in range(0, 44, 8) for row in range(0, 40, 8)]
    corners = [[place @ (c + x, r + y) for x, y in ((0, 0), (4, 0), (4, 4), (0, 4))] for c, r in at]
    shapes = shapely.to_wkb(np.array([shapely.Polygon(ring) for ring in corners]))
    species = np.array([("Beech", "Oak", "Pine")[number % 3] for number in range(len(at))], object)
    pyogrio.raw.write(
        folder / "crowns.gpkg", shapes, [species], ["species"], geometry_type="Polygon", crs=builders.UTM33
    )


BEFORE = {"small_scene": lambda folder: None, "satellite_product": products, "flight_lines": flight_lines}
# What a reader has at the end.
AFTER = {
    "small_scene": (
        "classes.tif",
        "outside.tif",
        "classes.png",
        "view.html",
        "accuracy.html",
        "points.gpkg",
    ),
    "satellite_product": ("spring.png", "spring.tif", "summer.tif", "spring_confidence.tif", "accuracy.html"),
    "flight_lines": (
        "maps/line_3.tif",
        "confidence/line_1.tif",
        "pictures/line_2.png",
        "mosaic.tif",
        "crowns_3.gpkg",
        "visit.gpkg",
    ),
}


@pytest.mark.training
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_each_command_of_an_example_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    BEFORE[page.stem](tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "fast", SMALL)
    lines = commands(page)
    assert len(lines) >= 5
    for line in lines:
        program, *words = shlex.split(line)
        words = [str(one) for word in words for one in (sorted(Path().glob(word)) if "*" in word else [word])]
        if program == "rio":
            subprocess.run([Path(sys.executable).with_name("rio"), *words], check=True)
            continue
        assert program == "sdiff"
        assert run([*words, *(SHORT if words[0] == "train" else [])]) == 0, (line, capsys.readouterr().err)
    for name in AFTER[page.stem]:
        assert (tmp_path / name).stat().st_size > 0, name
