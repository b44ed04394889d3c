"""Vector files as people keep them: what OGR opens under another name, and why it does not open the others."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from spectraldiff_runtime.errors import LabelsError, SceneError, UsageError
from spectraldiff_runtime.geo import text_encoding
from spectraldiff_runtime.geo.text_encoding import encoding_of_dbf, guess
from spectraldiff_runtime.geo.vector_source import OF_SCENE, VectorSource, is_vector, open_vectors

NAMES = ["Grünland", "Süßwasser", "Gemüse"]


def write(path: Path, names: list[str] | None = None) -> Path:
    boxes = shapely.to_wkb(np.array([shapely.box(9 * i, 0, 9 * i + 5, 5) for i in range(3)]))
    pyogrio.raw.write(
        path, boxes, [np.array(names or ["A", "B", "C"], object)], ["class"], geometry_type="Polygon", crs="EPSG:32616"
    )
    return path


def classes(source: VectorSource) -> list[str]:
    columns, shapes, _ = source.read(source.layers[0], ["class"])
    assert len(shapes) == 3
    return list(columns["class"])


def test_a_name_with_an_exclamation_mark(tmp_path):
    (tmp_path / "in!out").mkdir()
    for name in ("a!b.gpkg", "c!d.shp", "in!out/e.geojson"):
        write(tmp_path / f"plain{Path(name).suffix}")
        for part in tmp_path.glob("plain.*"):
            part.rename((tmp_path / name).with_suffix(part.suffix))
        assert classes(open_vectors(tmp_path / name)) == ["A", "B", "C"]
    with pytest.raises(SceneError, match="does not exist"):
        open_vectors(f"{tmp_path}/x!{write(tmp_path / 'plain.gpkg')}")


def test_a_gzipped_file(tmp_path):
    packed = tmp_path / "a.gpkg.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "a.gpkg").read_bytes()))
    assert classes(open_vectors(packed)) == ["A", "B", "C"]


def test_nothing_is_written_next_to_what_is_read(tmp_path):
    """GDAL would put a .gfs file next to a GML file, and .properties next to a gzipped one."""
    gml = (
        '<?xml version="1.0"?><r xmlns:gml="http://www.opengis.net/gml"><gml:featureMember><f><class>A</class><gml:Point>'
        "<gml:coordinates>1,2</gml:coordinates></gml:Point></f></gml:featureMember></r>"
    )
    (tmp_path / "a.gml").write_text(gml)
    columns, shapes, _ = open_vectors(tmp_path / "a.gml").read("f", ["class"])
    assert (list(columns["class"]), len(shapes)) == (["A"], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gml"]


def zipped(tmp_path: Path, *stems: str) -> Path:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for stem in stems:
            write(tmp_path / f"{stem}.shp")
            for suffix in ("shp", "shx", "dbf", "prj", "cpg"):
                archive.write(tmp_path / f"{stem}.{suffix}", f"data/of/{stem}.{suffix}")
        archive.writestr("data/readme.txt", "see there")
        archive.writestr("__MACOSX/data/of/._p.shp", "x")
    return tmp_path / "all.zip"


def test_a_zip_file_with_one_vector_file_in_a_folder(tmp_path):
    assert classes(open_vectors(zipped(tmp_path, "p"))) == ["A", "B", "C"]


def test_a_zip_file_with_several_is_answered_with_their_names(tmp_path):
    path = zipped(tmp_path, "p", "q")
    with pytest.raises(SceneError, match=rf"2 vector files: wanted one; name it \(/vsizip/{path}/data/of/p.shp, "):
        open_vectors(path)
    assert classes(open_vectors(f"/vsizip/{path}/data/of/q.shp")) == ["A", "B", "C"]


@pytest.mark.parametrize(("part", "said"), [("shx", "p.shx is missing"), ("dbf", "p.dbf is missing")])
def test_a_missing_part_of_a_shapefile_is_named(tmp_path, part, said):
    path = write(tmp_path / "p.shp")
    (tmp_path / f"p.{part}").unlink()
    with pytest.raises(LabelsError, match=rf"{said}: wanted .shp, .shx and .dbf in one folder"):
        is_vector(path, LabelsError)
    (tmp_path / "p.shx").unlink(missing_ok=True)
    (tmp_path / "p.dbf").unlink(missing_ok=True)
    with pytest.raises(SceneError, match=r"p.shx and p.dbf are missing"):
        open_vectors(path)


def test_what_ogr_cannot_open_is_said_in_its_words(tmp_path):
    (tmp_path / "a.gpkg").write_bytes(write(tmp_path / "b.gpkg").read_bytes()[:3000])
    (tmp_path / "c.txt").write_text("nothing")
    for name in ("a.gpkg", "c.txt"):
        with pytest.raises(
            LabelsError, match=r"cannot be read as a vector file \(.+\): wanted one that GDAL reads"
        ) as caught:
            is_vector(tmp_path / name, LabelsError)
        assert "\n" not in str(caught.value)
        assert "driver explicitly" not in str(caught.value)
    assert not is_vector(tmp_path / "missing.gpkg")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("x", "y", "crs", "said"),
    [
        ("lon", "lat", "EPSG:4326", "degrees in WGS 84"),
        ("Longitude", "Latitude", "EPSG:4326", "degrees in WGS 84"),
        ("X", "Y", OF_SCENE, "coordinates in the scene's CRS"),
        ("easting", "northing", OF_SCENE, "coordinates in the scene's CRS"),
    ],
)
def test_points_in_a_csv_file(tmp_path, separator, x, y, crs, said):
    rows = [(x, y, "class"), ("-87.5", "40.25", "A"), ("-87.25", "40.5", "B")]
    (tmp_path / "p.csv").write_text("\n".join(separator.join(row) for row in rows))
    source = open_vectors(tmp_path / "p.csv")
    columns, shapes, found = source.read(source.layers[0], ["class"])
    assert shapely.get_coordinates(shapely.from_wkb(shapes)).tolist() == [[-87.5, 40.25], [-87.25, 40.5]]
    assert (columns["class"].tolist(), found) == (["A", "B"], crs)
    assert source.remarks == (f"'{x}' and '{y}' of '{tmp_path / 'p.csv'}' were read as {said}",)


def test_shapes_in_a_csv_file(tmp_path):
    (tmp_path / "p.csv").write_text('class,WKT\n7,"POLYGON ((0 0, 1 0, 1 1, 0 0))"\n')
    source = open_vectors(tmp_path / "p.csv")
    columns, shapes, crs = source.read(source.layers[0], ["class"])
    assert (columns["class"].tolist(), crs) == ([7], OF_SCENE)
    assert shapely.from_wkb(shapes)[0].area == 0.5
    (tmp_path / "q.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        SceneError, match="has the columns a, b and no coordinates: wanted columns lon and lat, x and y"
    ):
        open_vectors(tmp_path / "q.csv")


def with_dbf(path: Path, encoding: str, cpg: str | None, names: list[str] = NAMES, driver: int = 0) -> Path:
    """A shapefile whose table has these names in an encoding, and a .cpg that says something."""
    write(path, ["x" * 20] * 3)
    table = path.with_suffix(".dbf")
    content = bytearray(table.read_bytes())
    start, size, content[29] = int.from_bytes(content[8:10], "little"), int.from_bytes(content[10:12], "little"), driver
    for i, name in enumerate(names):
        content[start + i * size + 1 : start + (i + 1) * size] = name.encode(encoding).ljust(size - 1)
    table.write_bytes(content)
    path.with_suffix(".cpg").unlink()
    if cpg is not None:
        path.with_suffix(".cpg").write_text(cpg)
    return path


@pytest.mark.parametrize(
    ("encoding", "cpg", "driver"),
    [("utf-8", "UTF-8", 0), ("cp1252", "1252", 0), ("cp850", "OEM 850", 0), ("cp850", "cp850", 0), ("cp850", None, 2)],
)
def test_an_encoding_that_is_declared(tmp_path, encoding, cpg, driver):
    source = open_vectors(with_dbf(tmp_path / "p.shp", encoding, cpg, driver=driver))
    assert (classes(source), source.remarks) == (NAMES, ())


@pytest.mark.parametrize(
    ("encoding", "cpg", "why"),
    [
        ("utf-8", None, "the file names none"),
        ("cp1252", None, "the file names none"),
        ("cp850", None, "the file names none"),
        ("cp1252", "UTF-8", "'p.cpg' says 'UTF-8', which it is not"),
        ("utf-8", "SYSTEM", "'p.cpg' says 'SYSTEM', which it is not"),
    ],
)
def test_an_encoding_that_is_guessed_is_said_and_overruled(tmp_path, encoding, cpg, why):
    path = with_dbf(tmp_path / "p.shp", encoding, cpg)
    source = open_vectors(path)
    assert classes(source) == NAMES
    assert source.remarks == (
        f"the texts of '{tmp_path / 'p.dbf'}' were read as {encoding}, a guess ({why}), such as 'Gemüse', 'Grünland', "
        "'Süßwasser': --encoding says another one",
    )
    other = open_vectors(path, encoding="latin-1")
    assert (classes(other) == NAMES, other.remarks) == (encoding == "cp1252", ())
    for odd in ("klingon", "utf-16", "undefined", "rot13", "cp037"):
        with pytest.raises(UsageError, match=f"--encoding '{odd}' is no known encoding of tables"):
            open_vectors(path, encoding=odd)


@pytest.mark.parametrize("said", [b"\0", b"utf-16", b"undefined", b"\xff" * 99])
def test_a_file_that_says_an_encoding_that_tables_do_not_have(tmp_path, said):
    path = with_dbf(tmp_path / "p.shp", "utf-8", None)
    path.with_suffix(".cpg").write_bytes(said)
    assert classes(open_vectors(path)) == NAMES


def test_plain_letters_need_no_encoding(tmp_path):
    assert encoding_of_dbf(with_dbf(tmp_path / "p.shp", "ascii", None, ["A", "B", "C"]).with_suffix(".dbf")) is None
    (tmp_path / "short.dbf").write_bytes(b"abc")
    assert encoding_of_dbf(tmp_path / "short.dbf") is None


def test_texts_of_a_csv_file_in_another_encoding(tmp_path):
    (tmp_path / "p.csv").write_bytes("x,y,class\n1,2,Grünland\n3,4,Süßwasser\n5,6,Gemüse\n".encode("cp1252"))
    source = open_vectors(tmp_path / "p.csv")
    assert classes(source) == NAMES
    assert "were read as cp1252, a guess (it is not UTF-8), such as 'Grünland', 'Süßwasser'" in source.remarks[0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Forêt\nPrairie fauchée\nCéréales d'été", "cp1252"), ("Forêt\nPrairie fauchée\nCéréales d'été", "cp850"),
        ("Matorral\nAño\nCaña de azúcar", "cp1252"), ("Łąka\nŻyto\nPszenica ozima\nLas liściasty", "cp1250"),
        ("\u0412\u043e\u0434\u0430\n\u041f\u043e\u043b\u0435\n\u0411\u043e\u043b\u043e\u0442\u043e", "cp1251"),
        ("水稻\n小麦\n森林", "gb18030"), ("水田\n森林\nひまわり", "cp932"),
    ],
)  # fmt: skip
def test_guesses(text, encoding):
    assert text.encode(encoding).decode(guess(text.encode(encoding))) == text


def test_bytes_of_no_encoding_are_latin_1(monkeypatch):
    monkeypatch.setattr(text_encoding, "OTHERS", ["big5"])
    assert guess(b"\x81\x8d\x8f\x81\x8d\x8f\xff\xfe\x00\x01") in ("latin-1", "cp850", "big5")
