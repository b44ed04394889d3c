"""Odd inputs that `sdiff map` takes, and what the map is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from spectraldiff_runtime.gdal import quiet_gdal
from tests.runtime.hostile.kit import BYTE_COUNTS, WAVES, Kit, Make, begun, classes_of, corrupt_journal, whole

Check = Callable[[Kit], np.ndarray]


def outside(kit: Kit) -> Path:
    """Write a VRT whose source is in the folder above its own."""
    source = kit.write()
    (kit.folder / "inner").mkdir()
    return kit.vrt(f"../{source.name}", "inner/scene.vrt")


def emptied(kit: Kit, value: float, dtype: str, **options: Any) -> Path:
    return kit.write(values=np.full(kit.cube.shape, value, dtype), **options)


def sized(height: int, width: int) -> tuple[Make, Check, int]:
    return (
        lambda kit: [kit.write(values=kit.cube[:height, :width])],
        lambda kit: classes_of(kit, kit.cube[:height, :width]),
        0,
    )


def named(name: str) -> tuple[Make, Check, int]:
    return lambda kit: [kit.write(name)], whole, 0


def waved(text: str, unit: str = "Nanometers", warnings: int = 0) -> tuple[Make, Check, int]:
    """A list of wavelengths that is none, so that bands go by their numbers."""
    return lambda kit: [kit.envi(wavelength=text, wavelength_units=unit)], whole, warnings


def nothing(kit: Kit) -> np.ndarray:
    return np.zeros(kit.cube.shape[:2], np.uint8)


def first_rows(kit: Kit) -> np.ndarray:
    return classes_of(kit, kit.cube[:20])


def some_missing(kit: Kit) -> Path:
    values = kit.cube.astype(np.float32)
    values[3, 4, 5] = np.nan
    values[8, 9, 0] = np.inf
    return kit.write(values=values)


def without_some(kit: Kit) -> np.ndarray:
    values = kit.cube.astype(np.float32)
    values[3, 4, 5] = values[8, 9, 0] = np.nan
    wanted = classes_of(kit, values)
    assert (wanted == 0).sum() == 2
    return wanted


# What is mapped: arguments, the classes that are wanted, and how many warnings there are.
MAPPED: dict[str, tuple[Make, Check, int]] = {
    "rotated": (lambda k: [k.write(transform=rasterio.Affine(20, 5, 480_000, 5, -20, 4_470_000))], whole, 0),
    "no-crs": (lambda k: [k.write(crs=None)], whole, 0),
    "no-place": (lambda k: [k.write(crs=None, transform=None)], whole, 0),
    "all-nodata": (lambda k: [emptied(k, 7, "uint16", nodata=7)], nothing, 1),
    "all-nan": (lambda k: [emptied(k, np.nan, "float32")], nothing, 1),
    "all-infinite": (lambda k: [emptied(k, -np.inf, "float64")], nothing, 1),
    "some-missing": (lambda k: [some_missing(k)], without_some, 0),
    "one-column": sized(29, 1),
    "one-row": sized(1, 37),
    "one-pixel": sized(1, 1),
    "smaller-than-the-halo": sized(2, 2),
    "nodata-outside-the-type": (lambda k: [k.write(), "--nodata=-9999"], whole, 1),
    "nanometres": (lambda k: [k.write(waves=WAVES)], whole, 0),
    "micrometres": waved("{0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7}", "Micrometers"),
    "micrometres-without-unit": waved("{0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7}", "Unknown"),
    "waves-text": waved("{blue, green, red, b, c, d, e}"),
    "waves-too-few": waved("{400, 450}"),
    "waves-zero": waved("{0, 450, 500, 550, 600, 650, 700}"),
    "waves-negative": waved("{-400, 450, 500, 550, 600, 650, 700}"),
    "waves-nan": waved("{nan, 450, 500, 550, 600, 650, 700}"),
    "waves-in-another-unit": waved("{1, 2, 3, 4, 5, 6, 7}", "Furlongs"),
    "map-info-text": (lambda k: [k.envi(map_info="{UTM, here, there}", coordinate_system_string=None)], whole, 0),
    "header-says-less": (lambda k: [k.envi(lines=20)], first_rows, 1),
    "tiff-strips-too-short": (lambda k: [k.tiff(BYTE_COUNTS, 10)], whole, 0),
    "name-with-spaces": named("my scene of today.tif"),
    "name-with-quotes": named('it\'s "mine".tif'),
    "name-of-two-lines": named("two\nlines.tif"),
    "name-of-many-letters": named("Größe-Москва-東京-🛰.tif"),
    "name-with-a-percent": named("100% {sure} $HOME & <b>.tif"),
    "long-name": named("s" * 240 + ".tif"),
    "vrt-out-of-its-folder": (lambda k: [outside(k)], whole, 0),
    "scene-by-link": (lambda k: [k.link("link.tif", k.write())], whole, 0),
    "rest-of-another-kind": (lambda k: [k.write(), (k.folder / "out.tif.unfinished").mkdir()][:1], whole, 0),
    "rubbish-journal-overwritten": (lambda k: corrupt_journal(k, b"rubbish", "--overwrite"), whole, 0),
    "half-a-journal-resumed": (lambda k: [begun(k), "--resume"], whole, 0),
}


@pytest.mark.parametrize("case", MAPPED)
def test_mapped(kit, sdiff_map, listing, case):
    make, wanted, warnings = MAPPED[case]
    arguments = make(kit)
    before = {name: data for name, data in listing().items() if ".unfinished" not in name}
    code, lines = sdiff_map(arguments)
    assert (code, len(lines)) == (0, warnings), lines
    assert all(line.startswith("sdiff: warning: ") for line in lines)
    after = listing()
    made = {"out.tif", "out.tif.aux.xml"}
    assert {name: data for name, data in after.items() if name not in made} == before
    assert made <= set(after)
    assert not (kit.folder / "out.tif.unfinished").exists()
    with quiet_gdal(), rasterio.open(kit.out) as found, rasterio.open(arguments[0]) as scene:
        np.testing.assert_array_equal(found.read(1), wanted(kit))
        assert (found.crs, found.transform, found.nodata) == (scene.crs, scene.transform, 0)
