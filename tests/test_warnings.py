"""Every warning about scenes, labels and places can be reached: their texts are found in the source, and each is made.

A text that no error is made of is a warning, unless its function is named in `OTHERS`. A new one needs a case here.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyogrio
import pytest
import rasterio
import shapely
from pyarrow import parquet

from spectraldiff.accuracy.assessment import assess
from spectraldiff.accuracy.independent_test import read_independent
from spectraldiff.accuracy.mapped_scene import Picture
from spectraldiff.data.label_ground import Ground, labels_of
from spectraldiff.data.label_reader import LabelFeatures, read_own_labels, renumbered
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.merge_labels import joined
from spectraldiff.data.merge_scenes import alike, differing_bands, shared_labels, unit_doubts, with_common_names
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.value_checks import scale_doubts, value_doubts
from spectraldiff.splits.draw import Geometry, make_splits
from spectraldiff.splits.label_counts import ClassLabels, doubts
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.geoparquet import read_geoparquet
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.text_encoding import encoding_of_dbf
from spectraldiff_runtime.geo.vector_source import open_vectors
from spectraldiff_runtime.scene.band_metadata import left_out
from spectraldiff_runtime.scene.clouds import Clouds
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.raster import RasterScene
from tests.warning_texts import pattern_of, texts

PACKAGES = (
    "spectraldiff/data", "spectraldiff/accuracy", "spectraldiff/splits", "runtime/spectraldiff_runtime/scene",
    "runtime/spectraldiff_runtime/geo",
)  # fmt: skip
OTHERS = {  # texts of errors that other functions raise, patterns, and results
    "_check_values", "sizes", "_check_places", "check_files", "envi_header", "_why_not_open", "_check_opened",
    "chosen_bands", "_checked_window", "_why_not_placed", "check_has_transform", "_declared", "_why_outside",
    "_nothing_tests", "interval.words", "gathered",
}  # fmt: skip
SHAPE = (4, 6)
PLACE = Georeference(rasterio.CRS.from_epsg(32616), rasterio.Affine(10, 0, 500000, 0, -10, 4480000))
STRIPES = np.repeat([0, 1, 2], 2)[None].repeat(4, 0).astype(np.uint8)
Case = Callable[[Path], list[str]]
CASES: list[Case] = []


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def raster(path: Path, values: np.ndarray, names: str = "", place: Georeference = PLACE, **options: object) -> Path:
    values = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "dtype": values.dtype, **options}
    profile |= {"height": values.shape[1], "width": values.shape[2], "crs": place.crs, "transform": place.transform}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values)
    listed = "".join(f"<Category>{name}</Category>" for name in names.split())
    if names:
        path.with_name(f"{path.name}.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{listed}</CategoryNames></PAMRasterBand></PAMDataset>'
        )
    return path


def vector(path: Path, shapes: list[object], **columns: list[object]) -> Path:
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes, object)),
        [np.array(c, object if isinstance(c[0], str) else None) for c in columns.values()], list(columns),
        crs="EPSG:32616", geometry_type="Unknown",
    )  # fmt: skip
    return path


def area(col: float, width: float = 1) -> shapely.Polygon:
    return shapely.box(500000 + 10 * col, 4479960, 500000 + 10 * (col + width), 4480000)


def labels(path: Path, **fields: str) -> list[str]:
    own = read_own_labels(path, SHAPE, PLACE, "s", LabelFields("kind", **fields))
    return [*own.remarks, *renumbered(own, path)]


def scene(names: tuple[str, ...] = ("Corn", "Hay"), factor: float = 1, **facts: object) -> LabelledScene:
    cube = (np.arange(4 * 6 * 3).reshape(4, 6, 3) + 100) * np.float32(factor)
    classes = tuple(LandCoverClass(v, n, (v, 9, 9)) for v, n in enumerate(names, start=1))
    return replace(LabelledScene("s", cube, STRIPES, classes), **facts)  # type: ignore[arg-type]


@case
def zeros(folder: Path) -> list[str]:
    return [
        *labels(raster(folder / "a.tif", STRIPES, "Corn Woods Hay", nodata=255)),
        *labels(raster(folder / "b.tif", STRIPES, "Corn Woods Hay")),
        *labels(raster(folder / "c.tif", STRIPES, nodata=255)),
    ]


@case
def odd_values_other_grids_and_codes(folder: Path) -> list[str]:
    odd = STRIPES.astype(np.float32)
    odd[0, 0] = np.inf
    moved = replace(PLACE, transform=PLACE.transform @ rasterio.Affine.translation(1, 0))
    return [
        *labels(raster(folder / "a.tif", odd)),
        *labels(raster(folder / "b.tif", STRIPES, place=moved)),
        *labels(raster(folder / "c.tif", np.array([7, 90, 255], np.uint8)[STRIPES])),
    ]


@case
def several_files(folder: Path) -> list[str]:
    paths = [vector(folder / f"{kind}.gpkg", [area(0)], kind=[kind]) for kind in "AB"]
    parts = [read_own_labels(path, SHAPE, PLACE, "s", LabelFields("kind")) for path in paths]
    return list(joined(parts, paths).remarks)


@case
def geoparquet(folder: Path) -> list[str]:
    path = folder / "a.parquet"
    facts = {"primary_column": "g", "columns": {"g": {"encoding": "WKB", "crs": None}}}
    table = pyarrow.table({"kind": ["A"], "parts": [[1]], "g": [shapely.to_wkb(area(0))]})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(facts)}), path)
    return list(read_geoparquet(path, SceneError)[1])


@case
def features(folder: Path) -> list[str]:
    line = shapely.LineString([(500000, 4479990), (500040, 4479990)])
    shapes = [area(0), None, area(1), area(0, 0.2), area(0.1, 0.2), area(900), line, area(0.3, 3)]
    return [
        *labels(vector(folder / "a.gpkg", shapes, kind=["A", "A", "", "A", "B", "C", "A", "D"])),
        *labels(vector(folder / "b.gpkg", [area(0), area(2)], kind=[3, 3], name=["Oak", "Ash"]), name_field="name"),
    ]


@case
def tables_of_text(folder: Path) -> list[str]:
    (folder / "a.csv").write_bytes("x,y,kind\n500005,4479995,Grün\n".encode("latin-1"))
    (folder / "b.csv").write_text('kind,wkt\nA,"POINT (500005 4479995)"\n')
    vector(folder / "c.shp", [area(0)], kind=["xxxx"])
    table = folder / "c.dbf"
    table.write_bytes(table.read_bytes().replace(b"xxxx", "Grün".encode("cp1252")))
    (folder / "c.cpg").write_text("klingon")
    found = encoding_of_dbf(table)
    assert found is not None
    vector(folder / "d.shp", [area(0), area(1)], value=[1, 2], name=["Grün", "Wald"])
    (folder / "d.dbf").rename(folder / "d.tif.vat.dbf")
    of_values = labels(raster(folder / "d.tif", STRIPES))
    return [*labels(folder / "a.csv"), *open_vectors(folder / "b.csv").remarks, found.remark, *of_values]


@case
def pairs(folder: Path) -> list[str]:
    waves = np.array([400.0, 500, 600])
    numbered = scene(("Class 1", "Class 2"), class_numbers=(1, 2))
    other = scene(factor=100)
    other.cube[0] = 100
    return [
        *with_common_names([scene(class_numbers=(1, 2)), numbered])[1].remarks,
        *alike(scene(("Corn", "corn")).classes),
        differing_bands([scene(wavelengths=waves), scene(wavelengths=waves + 9)]),
        *unit_doubts([scene(quantity="radiance"), scene(quantity="surface reflectance")]),
        *unit_doubts([scene(), other]),
    ]


@case
def many_scenes(_: Path) -> list[str]:
    crowns = LabelFeatures("c.gpkg", 5, np.array([1, 2]), (), ("Oak",))
    first, bare = scene(features=(crowns,)), scene(features=(crowns,), labels=np.zeros_like(STRIPES))
    return shared_labels([first, bare])


@case
def doubtful_values(folder: Path) -> list[str]:
    empty, far = scene(), scene(cube=np.tile(scene().cube, (1, 100, 1)), labels=np.tile(STRIPES, (1, 100)))
    empty.cube[0, 0] = -9999
    far.cube[0, 0, 0] = 1e9
    return [*value_doubts(empty), *value_doubts(far), *scale_doubts(raster(folder / "s.tif", STRIPES))]


@case
def sensor_geometry(folder: Path) -> list[str]:
    columns = np.tile(np.array([0, 0, 0, 1, 1, 1], np.int32), (4, 1))
    rows = np.arange(4, dtype=np.int32)[:, None].repeat(6, 1)
    grid = LookupGrid(rows, columns, PLACE)
    return list(labels_of(raster(folder / "l.tif", STRIPES), Ground((4, 2), PLACE, "s", grid), None).remarks)


@case
def map_in_part(_: Path) -> list[str]:
    none = np.zeros((2, 2), np.uint8)
    return [Picture(np.zeros((2, 2, 3)), None, none > 0, none, none, windows=3, side=64, share=0.1).note]


@case
def maps(folder: Path) -> list[str]:
    named = raster(folder / "named.tif", STRIPES, "Unclassified Corn Hay")
    german = raster(folder / "german.tif", STRIPES, "Unclassified Mais Heu")
    plain = raster(folder / "plain.tif", (STRIPES > 0) * np.uint8(7) + STRIPES)
    codes = raster(folder / "codes.tif", np.array([0, 111, 523], np.uint16)[STRIPES])
    swapped = raster(folder / "swapped.tif", STRIPES, "Unclassified 2 1")
    numbers = vector(folder / "n.gpkg", [area(2, 2), area(4, 2)], kind=[1, 2])
    some = np.zeros(SHAPE, np.bool_)
    some[0] = True
    return [
        *assess(codes, codes).notes,
        *assess(named, plain).notes,
        *assess(named, german).notes,
        *assess(swapped, numbers, fields=LabelFields("kind")).notes,
        *read_independent(
            str(named), scene(crs="EPSG:32616", transform=tuple(PLACE.transform)[:6]), some, LabelFields()
        ).notes,
    ]


@case
def bands(folder: Path) -> list[str]:
    pixels = np.full((4, 8, 9), 255, np.uint8)
    alpha = {"photometric": "rgb", "alpha": "yes"}
    with RasterScene(raster(folder / "a.tif", pixels, **alpha)) as opaque:
        said = [opaque.note]
    pixels[3, 2] = 9
    with RasterScene(raster(folder / "b.tif", pixels, **alpha), nodata=-1) as infrared:
        said += infrared.warnings
    cloudy = np.eye(4, dtype=np.bool_)
    return [*said, left_out({3: "no data"}, 9), Clouds(cloudy, False).note, Clouds(cloudy, True).note]


@case
def headers(folder: Path) -> list[str]:
    (folder / "e.img").write_bytes(bytes(4 * 6 * 2 + 5))
    (folder / "e.hdr").write_text(
        "ENVI\nsamples = 6\nlines = 4\nbands = 2\nfile type = ENVI Standard\ndata type = 1\ninterleave = bsq\n"
        "byte order = 0\nbbl = {1, 0}\n"
    )
    with RasterScene(folder / "e.img") as found:
        return [found.note, *found.warnings]


@case
def few_labels(folder: Path) -> list[str]:
    return doubts([ClassLabels("A", 5, 5, 0, 1), ClassLabels("B", 0, 0, 0, 0)])


@case
def splits(folder: Path) -> list[str]:
    groups = np.where(STRIPES > 0, np.arange(24, dtype=np.int32).reshape(SHAPE) + 1, 0).astype(np.int32)
    groups[STRIPES == 1] = 1
    half, one = np.where(STRIPES == 1, 1, 0), np.zeros((9, 9), np.uint8)
    one[0, 0], one[2:5, 2:5], one[7:, 0:3], one[7:, 6:] = 1, 2, 3, 3
    large = np.zeros((12, 12), np.uint8)
    large[:9, :9], large[11, 11], large[11, :2], large[:2, 11] = 1, 1, 2, 2
    places = [PLACE, PLACE]
    by_polygon = Geometry(groups=[groups, groups], georeferences=places)
    drawn = [
        make_splits([STRIPES], "fraction:0.5", 0, geometry=Geometry(groups=[groups])),
        make_splits([STRIPES], "per-class:50", 0),
        make_splits([STRIPES], "file:t.tif", 0, marked=half),
        make_splits([STRIPES], "folds:2", 0),
        make_splits([one], "folds:2", 0),
        make_splits([large], "folds:2", 0),
        make_splits([STRIPES, STRIPES], "folds:4", 0, geometry=Geometry(georeferences=places)),
        make_splits([STRIPES, STRIPES], "fraction:0.2", 0, geometry=by_polygon),
    ]
    return [note for one in drawn for note in one[0].notes]


@cache
def said(folder: Path) -> tuple[str, ...]:
    lines: list[str] = []
    for number, make in enumerate(CASES):
        (folder / str(number)).mkdir()
        lines += make(folder / str(number))
    return tuple(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warnings")


TEXTS = list(texts(PACKAGES, OTHERS))


@pytest.mark.parametrize(("where", "text"), TEXTS, ids=[where for where, _ in TEXTS])
def test_each_warning_can_be_reached(folder: Path, where: str, text: str) -> None:
    assert any(map(pattern_of(text).search, said(folder))), f"no case makes '{text}'"


def test_warnings_are_one_line(folder: Path) -> None:
    assert all(line and "\n" not in line for line in said(folder))
    assert len(TEXTS) > 30
