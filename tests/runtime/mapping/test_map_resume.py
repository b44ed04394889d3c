"""Maps that are finished or were cut off, and `resume`."""

import pytest

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.tiling.plan import Plan


def test_a_finished_map_is_left_alone_with_resume(model, write_scene, tmp_path, listing):
    scene, out = write_scene(), tmp_path / "classes.tif"
    first = map_scene(model, scene, out, resume=True)
    before = listing()
    again = map_scene(model, scene, out, resume=True)
    assert (first.skipped, again.skipped) == (False, True)
    assert again.pixels == first.pixels
    assert listing() == before
    with pytest.raises(OutputError, match="--overwrite"):
        map_scene(model, scene, out, resume=True, min_confidence=0.3)
    with pytest.raises(OutputError, match="--overwrite"):
        map_scene(model, scene, out)
    assert listing() == before


def copied(source, target):
    """Put a map's raster, with what lies next to it, in the place of another."""
    target.write_bytes(source.read_bytes())


@pytest.mark.parametrize("name", ["confidence", "probabilities", "preview"])
def test_files_beside_a_finished_map_must_be_its_own(model, write_scene, cube, tmp_path, listing, name):
    first, second = write_scene(), write_scene("b.tif", values=cube[::-1])
    for scene, folder in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        folder.mkdir()
        layers = {"confidence": folder / "c.tif", "probabilities": folder / "p.tif", "preview": folder / "m.png"}
        map_scene(model, scene, folder / "classes.tif", **layers)
        assert map_scene(model, scene, folder / "classes.tif", **layers, resume=True).skipped
    other = layers[name]
    copied(other, tmp_path / "a" / other.name)
    before = listing()
    layers = {key: tmp_path / "a" / path.name for key, path in layers.items()}
    words = "another map" if name == "preview" else "another scene: other name"
    with pytest.raises(OutputError, match=f"{other.name}' belongs to .*{words}.*replace it with --overwrite"):
        map_scene(model, first, tmp_path / "a" / "classes.tif", **layers, resume=True)
    assert listing() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"min_confidence": 0.3}, r"another least confidence \(0.0; now 0.3\)"),
        ({"nodata": 7}, r"another scene: other nodata"),
        ({"window": (0, 0, 5, 5)}, r"another window \(\[0, 29, 0, 37\]; now \[0, 5, 0, 5\]\)"),
        ({"confidence": "c.tif"}, r"another set of outputs"),
        ({"percent": True}, r'another confidence type \("float32"; now "uint8"\)'),
        ({"form": Format("GTiff")}, r'another format: other driver \("COG"; now "GTiff"\)'),
    ],
)
def test_a_finished_map_of_other_options_says_which(model, write_scene, tmp_path, changed, words):
    scene, out = write_scene(), tmp_path / "classes.tif"
    map_scene(model, scene, out, resume=True)
    if "confidence" in changed:
        changed = {"confidence": tmp_path / changed["confidence"]}
    with pytest.raises(OutputError, match=f"classes.tif' belongs to a map with {words}.*: choose another name"):
        map_scene(model, scene, out, resume=True, **changed)


def test_a_finished_map_without_a_record_is_no_one_s(model, write_scene, tmp_path):
    scene, out = write_scene(), write_scene("classes.tif")
    with pytest.raises(OutputError, match=r"classes.tif' belongs to another map, or to none"):
        map_scene(model, scene, out, resume=True)


class InterruptError(Exception):
    """Stands for whatever ends a map early."""


def stop_after(pixels):
    """Return a progress callback that ends the map when so many pixels are done."""
    total = 0

    def progress(done):
        nonlocal total
        total += done
        if total >= pixels:
            raise InterruptError

    return progress


@pytest.mark.parametrize("pixels", [1, 300, 800])
def test_a_map_that_was_cut_off_goes_on_and_is_the_same(model, write_scene, tmp_path, listing, pixels):
    scene = write_scene()
    layers = {"confidence": tmp_path / "c.tif", "probabilities": tmp_path / "p.tif", "preview": tmp_path / "m.png"}
    out = tmp_path / "classes.tif"
    map_scene(model, scene, out, **layers, tile=4)
    whole = listing()
    for path in (out, *layers.values(), out.with_name("classes.tif.aux.xml")):
        path.unlink()
    with pytest.raises(InterruptError):
        map_scene(model, scene, out, **layers, tile=4, resume=True, progress=stop_after(pixels))
    assert not out.exists()
    assert (tmp_path / "classes.tif.unfinished" / "journal").exists()
    seen = []
    map_scene(model, scene, out, **layers, tile=9, resume=True, started=lambda scene, region, plan: seen.append(plan))
    assert seen[0].tile == 4  # it goes on as it was begun
    assert listing() == whole


def test_a_map_that_was_interrupted_leaves_nothing_unless_asked(model, write_scene, tmp_path, listing):
    scene = write_scene()
    before = listing()
    with pytest.raises(InterruptError):
        map_scene(model, scene, tmp_path / "classes.tif", tile=4, progress=stop_after(1))
    assert listing() == before


def test_panels_of_a_plan_are_kept_on_resume():
    plan = Plan(4, 1, 8, 16, 10, 4)
    assert Plan.of(plan.as_dict()) == plan
