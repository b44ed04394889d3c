"""What is never done unasked: nothing is sent, and nothing is left in the folders of the account."""

import pytest

from tests.runtime.hostile.kit import Kit

SWITCH = "ORT_DISABLE_TELEMETRY"
FORGET = f"import os, sys; os.environ.pop({SWITCH!r}, None)"  # what these tests themselves have set


def test_a_map_leaves_nothing_in_the_folders_of_the_account(kit: Kit, python, tmp_path):
    folders = {name: tmp_path / name for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    for folder in folders.values():
        folder.mkdir()
    line = ["map", kit.write(), "--model", kit.model_path, "--out", kit.out, "-q"]
    environment = {name: str(folder) for name, folder in folders.items()}
    code = f"{FORGET}; from spectraldiff_runtime.cli import main; main()"
    done = python("-c", code, *line, env=environment)
    assert done.returncode == 0, done.stderr
    assert [path.name for folder in folders.values() for path in folder.rglob("*")] == []


@pytest.mark.parametrize("package", ["spectraldiff_runtime", "spectraldiff_export"])
def test_onnx_runtime_is_told_to_send_nothing_before_it_is_there(python, package):
    code = f"{FORGET}; import {package}; print(os.environ.get({SWITCH!r}), 'onnxruntime' in sys.modules)"
    assert python("-c", code).stdout == "1 False\n"
