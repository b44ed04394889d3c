"""Options of `sdiff map` that make no sense: one clear line, the right exit code, no file changed or left."""

from collections.abc import Sequence

import pytest

from tests.runtime.hostile.kit import Make, check_refused

OPTIONS: dict[str, tuple[int, str, Sequence[object]]] = {
    "bounds-nan": (2, "--bounds", ["--bounds", "nan", "0", "1", "1"]),
    "bounds-infinite": (2, "--bounds", ["--bounds", "-inf", "-inf", "inf", "inf"]),
    "bounds-swapped": (2, "--bounds", ["--bounds", "480100", "4469900", "480000", "4470000"]),
    "bounds-outside": (1, "hold no pixel", ["--bounds", "0", "0", "1", "1"]),
    "bounds-outside-the-world": (
        1,
        "hold no pixel",
        ["--bounds", "500", "500", "501", "501", "--bounds-crs", "EPSG:4326"],
    ),
    "bounds-three": (2, "--bounds", ["--bounds", "1", "2", "3"]),
    "bounds-crs-nonsense": (2, "--bounds-crs", ["--bounds", "0", "0", "1", "1", "--bounds-crs", "EPSG:nonsense"]),
    "bounds-crs-alone": (2, "--bounds-crs was given without --bounds", ["--bounds-crs", "EPSG:4326"]),
    "window-negative": (2, "--window", ["--window", "-1", "0", "4", "4"]),
    "window-zero": (2, "--window", ["--window", "0", "0", "0", "4"]),
    "window-outside": (2, "--window", ["--window", "0", "0", "38", "4"]),
    "window-huge": (2, "--window", ["--window", "0", "0", str(10**30), "4"]),
    "window-and-bounds": (2, "were both given", ["--window", "0", "0", "4", "4", "--bounds", "0", "0", "1", "1"]),
    "nodata-text": (2, "--nodata", ["--nodata", "nothing"]),
    "bands-zero": (2, "--bands", ["--bands", "0-6"]),
    "bands-past-any": (2, "--bands", ["--bands", "1-" + "9" * 30]),
    "bands-missing": (1, "--bands asks for band 8", ["--bands", "2-8"]),
    "memory-none": (2, "give at least", ["--max-memory", "0"]),
    "memory-text": (2, "--max-memory has 'abc'", ["--max-memory", "abc"]),
    "memory-little": (2, "give at least", ["--max-memory", "10MB"]),
    "memory-negative": (2, "--max-memory has", ["--max-memory=-1GB"]),
    "tile-past-memory": (2, "give at least", ["--tile", "100000", "--max-memory", "401MB"]),
    "blocksize-none": (2, "--blocksize 0", ["--blocksize", "0"]),
    "blocksize-odd": (2, "--blocksize 17", ["--blocksize", "17"]),
    "blocksize-huge": (2, "--blocksize 100000", ["--blocksize", "100000"]),
    "co-no-pair": (2, "wanted KEY=VALUE", ["--co", "nonsense"]),
    "co-unknown": (2, "--co NONSENSE=1", ["--co", "NONSENSE=1"]),
    "co-tiles": (2, "--blocksize", ["--co", "BLOCKSIZE=256"]),
    "co-lossy": (2, "--co COMPRESS=JPEG", ["--co", "COMPRESS=JPEG"]),
    "of-nonsense": (2, "--of", ["--of", "nonsense"]),
    "min-confidence": (2, "wanted a number from 0 to 1", ["--min-confidence", "2"]),
    "min-confidence-nan": (2, "wanted a number from 0 to 1", ["--min-confidence", "nan"]),
    "confidence-type": (2, "--confidence-type", ["--confidence-type", "int64"]),
    "cluster-nonsense": (2, "--cluster", ["--cluster", "nonsense"]),
    "workers-none": (2, "--workers", ["--workers", "0"]),
    "cluster-and-workers": (2, "exclude each other", ["--cluster", "tcp://127.0.0.1:1", "--workers", "1"]),
    "mask-missing": (1, "does not exist", ["--mask", "/no/such/file.gpkg"]),
}


MASKS: dict[str, tuple[int, str, Make]] = {
    "mask-is-a-raster": (1, "7 bands", lambda k: [k.write(), "--mask", k.folder / "scene.tif"]),
    "mask-empty": (1, "cannot be read as a vector file", lambda k: [k.write(), "--mask", k.file("m.geojson")]),
    "mask-folder": (1, "cannot be read as a vector file", lambda k: [k.write(), "--mask", k.folder]),
    "mask-loop": (1, "does not exist", lambda k: [k.write(), "--mask", k.link("m.gpkg", "m.gpkg")]),
    "mask-without-features": (
        1,
        "no polygon",
        lambda k: [k.write(), "--mask", k.file("m.geojson", '{"type": "FeatureCollection", "features": []}')],
    ),
    "mask-unplaced-scene": (
        2,
        "has no georeference",
        lambda k: [
            k.write(transform=None),
            "--mask",
            k.file("m.geojson", '{"type": "FeatureCollection", "features": []}'),
        ],
    ),
    "bounds-unplaced-scene": (
        2,
        "has no georeference",
        lambda k: [k.write(transform=None), "--bounds", "0", "0", "1", "1"],
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_refused_option(kit, sdiff_map, listing, case):
    code, words, options = OPTIONS[case]
    check_refused(kit, sdiff_map, listing, [kit.write(), *options], code, words)


@pytest.mark.parametrize("case", MASKS)
def test_refused_mask(kit, sdiff_map, listing, case):
    code, words, make = MASKS[case]
    check_refused(kit, sdiff_map, listing, make(kit), code, words)
