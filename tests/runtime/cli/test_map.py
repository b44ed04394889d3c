"""`sdiff map` as people type it."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import __version__, map_scene


def test_the_line_in_the_readme(sdiff, write_scene, model_path, model, cube, tmp_path, monkeypatch):
    write_scene()
    (tmp_path / "model.onnx").write_bytes(model_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, out, err = sdiff("map", "scene.tif", "--out", "classes.tif")
    assert (code, out) == (0, "")
    assert "on cpu" in err
    assert "pixels/s" in err
    assert "Hectares" in err
    assert all(c.name in err for c in model.card.classes)
    with rasterio.open("classes.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), map_scene(model, cube).classes)


def test_quiet_is_quiet_and_json_is_json(sdiff, write_scene, model_path, tmp_path):
    arguments = ["map", write_scene(), "--out", tmp_path / "classes.tif", "--model", model_path, "-q"]
    assert sdiff(*arguments) == (0, "", "")
    code, out, err = sdiff(*arguments, "--json", "--overwrite")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["device"] == "cpu"
    assert facts["height"] * facts["width"] == sum(c["pixels"] for c in facts["classes"]) == 29 * 37


def test_all_outputs(sdiff, write_scene, model_path, tmp_path):
    code, _, err = sdiff(
        "map", write_scene(), "--out", tmp_path / "classes.tif", "--model", model_path, "-v",
        "--confidence", tmp_path / "confidence.tif", "--preview", tmp_path / "map.png",
        "--tile", 9, "--batch", 2, "--threads", 1, "--device", "auto",
    )  # fmt: skip
    assert code == 0
    assert "halo 2" in err
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"scene.tif", "classes.tif", "classes.tif.aux.xml", "confidence.tif", "map.png"}


def test_bands_and_nodata(sdiff, write_scene, model_path, model, cube, tmp_path):
    wide = np.concatenate([cube[:, :, :2], cube], axis=2)
    wide[3, 4, 5] = 4321
    scene = write_scene(values=wide, nodata=int(cube[0, 0, 0]))
    out = tmp_path / "classes.tif"
    for nodata, missing in (("4321", 1), ("none", 0)):
        code, text, _ = sdiff(
            "map", scene, "-o", out, "-m", model_path, "--bands", "3-9", "--nodata", nodata, "--json", "--overwrite"
        )
        assert code == 0
        assert json.loads(text)["unclassified_pixels"] == missing


def test_an_unclassified_scene_is_a_warning(sdiff, write_scene, model_path, cube, tmp_path):
    scene = write_scene(values=np.zeros_like(cube), nodata=0)
    code, _, err = sdiff("map", scene, "--out", tmp_path / "classes.tif", "--model", model_path, "-q")
    assert code == 0
    assert err.startswith("sdiff: warning: no pixel of")
    assert err.count("\n") == 1


def test_other_wavelengths_are_refused_unless_bands_are_named(sdiff, write_scene, model_path, tmp_path):
    scene = write_scene(waves=range(1000, 1700, 100))
    arguments = ["map", scene, "--out", tmp_path / "classes.tif", "--model", model_path, "-q"]
    code, _, err = sdiff(*arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "1000" in err
    assert "700" in err
    code, _, err = sdiff(*arguments, "--bands", "1-7")
    assert code == 0
    assert "sdiff: warning: " in err
    assert "other wavelengths" in err


def refusals(tmp_path, write_scene, model_path):
    """Return (arguments after `map`, exit code, words) of everything that is refused."""
    scene = write_scene()
    (tmp_path / "exists.tif").write_bytes(b"precious")
    (tmp_path / "cut.onnx").write_bytes(model_path.read_bytes()[:-100])
    changed = bytearray(model_path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.onnx").write_bytes(changed)
    (tmp_path / "other.onnx").write_bytes(b"\x08\x09 something")
    cut = write_scene("cut.tif")
    cut.write_bytes(cut.read_bytes()[:7000])
    (tmp_path / "text.tif").write_text("no raster")
    narrow = write_scene("narrow.tif", values=np.zeros((4, 4, 3), np.uint8))
    out, fit = ["--out", tmp_path / "out.tif"], ["--model", model_path]
    return [
        ([scene, *out], 1, "there is no model file 'model.onnx'"),
        ([scene, *out, "--model", tmp_path / "cut.onnx"], 1, "is cut short"),
        ([scene, *out, "--model", tmp_path / "changed.onnx"], 1, "was changed"),
        ([scene, *out, "--model", tmp_path / "other.onnx"], 1, "an ONNX file that SpectralDiff did not write"),
        ([scene, *out, "--model", scene], 1, "not a SpectralDiff model"),
        ([scene, *out, "--model", tmp_path], 1, "is a folder"),
        ([tmp_path / "missing.tif", *out, *fit], 1, "does not exist"),
        ([tmp_path / "text.tif", *out, *fit], 1, "cannot be opened as a raster"),
        ([tmp_path, *out, *fit], 1, "is a folder"),
        ([model_path, *out, *fit], 1, "cannot be opened as a raster"),
        ([cut, *out, *fit], 1, "cut short"),
        ([narrow, *out, *fit], 1, "3 bands in use and the model wants 7"),
        ([scene, *out, *fit, "--bands", "1-3"], 1, "3 bands in use"),
        ([scene, *out, *fit, "--bands", "2-8"], 1, "has 7 bands and --bands asks for band 8"),
        ([scene, "--out", tmp_path / "exists.tif", *fit], 1, "--overwrite"),
        ([scene, "--out", scene, *fit, "--overwrite"], 1, "the same file as"),
        ([scene, "--out", tmp_path / "cut.onnx", "--model", tmp_path / "cut.onnx", "--overwrite"], 1, "the same file"),
        ([scene, "--out", tmp_path / "no" / "out.tif", *fit], 1, "there is no folder"),
        ([scene, "--out", tmp_path, *fit], 1, "is a folder"),
        ([scene, *out, *fit, "--preview", tmp_path / "map.gif"], 1, "wanted .png or .jpg"),
        ([scene, *out, *fit, "--confidence", tmp_path / "exists.tif"], 1, "--overwrite"),
        ([scene, *out, *fit, "--confidence", tmp_path / "out.tif"], 1, "the same file"),
        ([scene, *out, *fit, "--bands", "1-x"], 2, "--bands"),
        ([scene, *out, *fit, "--bands", "3-1"], 2, "--bands"),
        ([scene, *out, *fit, "--bands", "0-6"], 2, "--bands"),
        ([scene, *out, *fit, "--bands", "1,1"], 2, "band 1 twice"),
        ([scene, *out, *fit, "--nodata", "nothing"], 2, "--nodata"),
        ([scene, *out, *fit, "--tile", "0"], 2, "--tile"),
        ([scene, *out, *fit, "--batch", "-1"], 2, "--batch"),
        ([scene, *out, *fit, "--threads", "many"], 2, "--threads"),
        ([scene, *out, *fit, "--device", "tpu"], 2, "--device"),
        ([scene, *out, *fit, "-q", "-v"], 2, "exclude each other"),
        ([scene, *fit], 2, "--out"),
        ([*out, *fit], 2, "scene"),
        ([scene, *out, *fit, "--colour"], 2, "--colour"),
    ]  # fmt: skip


def test_everything_that_is_refused(sdiff, write_scene, model_path, tmp_path, listing, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = refusals(tmp_path, write_scene, model_path)
    before = listing()
    for arguments, wanted, words in cases:
        code, out, err = sdiff("map", *arguments)
        message = err.splitlines()[-1]
        assert (code, out) == (wanted, ""), (arguments, err)
        assert message.startswith("sdiff: error: "), (arguments, err)
        assert words.lower() in message.lower(), (arguments, err)
        assert "Traceback" not in err
        assert listing() == before, arguments


@pytest.fixture
def many(write_scene, tmp_path, cube):
    """Three scenes, of which the second is broken."""
    write_scene("one.tif")
    write_scene("two.tif").write_bytes(b"no raster")
    write_scene("three.tif", values=cube[:20])
    return [tmp_path / f"{name}.tif" for name in ("one", "two", "three")]


def test_many_scenes_and_one_that_fails(sdiff, many, model_path, tmp_path, cube, model):
    arguments = ["map", *many, "--out-dir", tmp_path / "maps", "--model", model_path, "--resume"]
    code, out, err = sdiff(*arguments, "--json", "--preview", tmp_path / "pictures")
    lines = err.splitlines()
    assert (code, len(lines)) == (1, 4), err
    assert [line[:5] for line in lines[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
    assert "error: " in lines[1]
    assert "cannot be opened as a raster" in lines[1]
    assert lines[3] == "2 mapped, 0 mapped already, 1 failed"
    facts = json.loads(out)["scenes"]
    assert [("error" in fact, fact.get("skipped")) for fact in facts] == [(False, False), (True, None), (False, False)]
    assert sorted(p.name for p in (tmp_path / "maps").glob("*.tif")) == ["one.tif", "three.tif"]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["one.png", "three.png"]
    with rasterio.open(tmp_path / "maps" / "three.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), map_scene(model, cube[:20]).classes)


def test_many_scenes_again_do_what_is_missing(sdiff, many, write_scene, model_path, tmp_path):
    arguments = ["map", *many, "--out-dir", tmp_path / "maps", "--model", model_path]
    assert sdiff(*arguments)[0] == 1
    write_scene("two.tif")
    before = (tmp_path / "maps" / "one.tif").stat().st_mtime_ns
    code, _, err = sdiff(*arguments, "--resume")
    assert code == 0
    assert "'one.tif'" not in err
    assert err.splitlines()[-1] == "1 mapped, 2 mapped already, 0 failed"
    assert err.count("is mapped already") == 2
    assert (tmp_path / "maps" / "one.tif").stat().st_mtime_ns == before
    code, _, err = sdiff(*arguments)
    assert code == 1
    assert err.count("--overwrite") == 3


def test_which_outputs_go_together(sdiff, many, model_path, tmp_path, listing):
    (tmp_path / "file").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one.tif").write_bytes(many[0].read_bytes())
    before = listing()
    for arguments, words in (
        ([many[0]], "--out-dir maps/ for many"),
        ([many[0], "--out", tmp_path / "a.tif", "--out-dir", tmp_path / "maps"], "--out-dir maps/ for many"),
        ([*many, "--out", tmp_path / "a.tif"], "3 scenes cannot all go to"),
        ([*many, "--out-dir", tmp_path / "file"], "is no folder"),
        ([many[0], tmp_path / "sub" / "one.tif", "--out-dir", tmp_path], "would both be mapped to"),
    ):
        code, _, err = sdiff("map", *arguments, "--model", model_path)
        assert (code, err.count("\n")) == (2, 1), err
        assert words in err
    assert listing() == before
    assert sdiff("map", *many, "--out-dir", tmp_path / "maps", "--model", tmp_path / "none.onnx")[0] == 1
    assert not (tmp_path / "maps").exists(), "a folder was made for maps that cannot be"
    folders = ("--out-dir", tmp_path / "maps", "--confidence", tmp_path / "sure")
    assert sdiff("map", tmp_path / "file", *folders, "--model", model_path)[0] == 1
    assert not (tmp_path / "maps").exists()
    assert not (tmp_path / "sure").exists()
    assert sdiff("map", many[0], tmp_path / "file", *folders, "--model", model_path)[0] == 1
    assert (tmp_path / "maps" / many[0].name).is_file()


def test_profile(sdiff, write_scene, model_path, tmp_path):
    code, _, err = sdiff("map", write_scene(), "--out", tmp_path / "c.tif", "--model", model_path, "--profile")
    assert code == 0
    assert all(f"\n{stage} " in err for stage in ("read", "gather", "infer", "write", "finish"))
    assert "The run was bound by '" in err


def test_resume_says_when_nothing_is_to_be_done(sdiff, write_scene, model_path, tmp_path):
    arguments = ["map", write_scene(), "--out", tmp_path / "c.tif", "--model", model_path, "--resume"]
    assert sdiff(*arguments)[0] == 0
    code, _, err = sdiff(*arguments)
    assert code == 0
    assert "is mapped already" in err


def test_cuda_where_there_is_none(sdiff, write_scene, model_path, tmp_path, listing):
    from spectraldiff_runtime.model import session

    if session.why_cuda_unavailable() == "":
        pytest.skip("this machine has CUDA")
    scene = write_scene()
    before = listing()
    code, _, err = sdiff("map", scene, "--out", tmp_path / "out.tif", "--model", model_path, "--device", "cuda")
    assert code == 1
    assert "spectraldiff[gpu]" in err
    assert err.count("\n") == 1
    assert listing() == before


@pytest.fixture
def slow_map(write_scene, model_path, tmp_path, subprocess_environment):
    """Start a map that takes long, and wait until its output has begun."""
    rng = np.random.default_rng(0)
    scene = write_scene(values=rng.integers(0, 1000, (1500, 1500, 7)).astype(np.uint16))
    command = [
        sys.executable, "-m", "spectraldiff_runtime", "map", scene, "--out", tmp_path / "classes.tif",
        "--model", model_path, "--tile", "2", "--confidence", tmp_path / "confidence.tif",
        "--preview", tmp_path / "map.png",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=subprocess_environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "classes.tif.unfinished" / "journal").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize("pause", [0.0, 0.3, 1.0])
def test_ctrl_c(slow_map, tmp_path, pause):
    time.sleep(pause)
    slow_map.send_signal(signal.SIGINT)
    err = slow_map.stderr.read()
    assert slow_map.wait(timeout=60) == 130, err
    assert err.splitlines()[-1] == "sdiff: interrupted"
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_what_is_done_is_kept_with_resume(subprocess_environment, write_scene, model_path, tmp_path):
    rng = np.random.default_rng(0)
    scene = write_scene(values=rng.integers(0, 1000, (900, 900, 7)).astype(np.uint16))
    command = [
        sys.executable, "-m", "spectraldiff_runtime", "map", scene, "--out", tmp_path / "classes.tif",
        "--model", model_path, "--tile", "2", "--resume",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=subprocess_environment)
    while not (tmp_path / "classes.tif.unfinished" / "journal").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 130, err
    assert "what is done is kept in" in err
    assert err.splitlines()[-1] == "sdiff: interrupted"
    assert {p.name for p in tmp_path.iterdir()} == {"scene.tif", "classes.tif.unfinished"}


def test_a_polite_kill(slow_map, tmp_path):
    slow_map.send_signal(signal.SIGTERM)
    assert slow_map.wait(timeout=60) == 128 + signal.SIGTERM
    assert "Traceback" not in slow_map.stderr.read()
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


# What the extra `train` installs, and what needs it; SciPy is not among them, because Numba asks for its version.
OF_TRAINING = {
    "torch", "sklearn", "matplotlib", "tensorly", "onnx", "onnxscript", "onnx_ir", "pooch", "safetensors",
    "rs_fusion_datasets", "spectraldiff", "spectraldiff_export",
}  # fmt: skip
# What mapping imports, and help does not.
OF_MAPPING = {"numpy", "rasterio", "onnxruntime", "numba", "PIL"}

IMPORTS = """
import sys
from spectraldiff_runtime.cli import run
code = run(sys.argv[1:])
print("found:", sorted({unwanted} & set(sys.modules)), code)
"""


def test_mapping_needs_nothing_of_training(python, write_scene, model_path, tmp_path):
    done = python(
        "-c", IMPORTS.format(unwanted=OF_TRAINING), "map", write_scene(), "--out", tmp_path / "classes.tif",
        "--model", model_path, "--preview", tmp_path / "map.png",
    )  # fmt: skip
    assert done.stdout == "found: [] 0\n", done.stdout + done.stderr
    assert "Warning" not in done.stderr


def test_help_needs_nothing_heavy(python):
    done = python("-c", IMPORTS.format(unwanted=OF_TRAINING | OF_MAPPING), "--help")
    assert done.stdout.endswith("found: [] 0\n"), done.stdout + done.stderr
    assert "map" in done.stdout


def test_version_help_and_nothing(sdiff):
    assert sdiff("--version") == (0, f"sdiff {__version__}\n", "")
    assert sdiff("map", "-h")[0] == 0
    assert sdiff()[0] == 2
    code, _, err = sdiff("mapp")
    assert code == 2
    assert err.startswith("sdiff: error: no such command 'mapp'")


def test_a_reader_that_goes_away(subprocess_environment, model_path):
    command = [sys.executable, "-m", "spectraldiff_runtime", "info", model_path, "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=subprocess_environment
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() in (0, 1)


def test_running_out_of_memory_is_one_line(sdiff, write_scene, model_path, tmp_path, monkeypatch, listing):
    from spectraldiff_runtime.mapping import stages

    def exhausted(*_, **__):
        raise MemoryError("tiles")

    monkeypatch.setattr(stages, "gather_tiles", exhausted)
    scene = write_scene()
    before = listing()
    code, _, err = sdiff("map", scene, "--out", tmp_path / "out.tif", "--model", model_path, "-q")
    assert (code, err.count("\n")) == (1, 1)
    assert "not enough memory (tiles)" in err
    assert listing() == before
