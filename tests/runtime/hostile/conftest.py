"""A kit for malformed inputs, and `sdiff map` with all of its stderr."""

from collections.abc import Callable, Sequence

import pytest

from spectraldiff_runtime.cli import run
from tests.runtime.hostile.kit import Kit


@pytest.fixture
def kit(tmp_path, write_scene, cube, model_path, model, build_onnx) -> Kit:
    return Kit(tmp_path, write_scene, cube, model_path, model, build_onnx)


@pytest.fixture
def sdiff_map(kit, capfd) -> Callable[..., tuple[int, list[str]]]:
    """Run `sdiff map` with --out and --model where they are not given; return the exit code and stderr's lines.

    All of stderr: what C libraries print too.
    """

    def call(arguments: Sequence[object]) -> tuple[int, list[str]]:
        given = [str(argument) for argument in arguments]
        if not {"--out", "--out-dir"} & set(given):
            given += ["--out", str(kit.out)]
        if "--model" not in given:
            given += ["--model", str(kit.model_path)]
        capfd.readouterr()
        code = run(["map", *given, "-q"])
        out, err = capfd.readouterr()
        assert out == ""
        return code, err.splitlines()

    return call
