"""What holds for every test; the fixtures that several folders share lie in the modules named here."""

import os
import signal

import pytest

pytest_plugins = ("tests.sharing", "tests.tiny_model", "tests.tiny_run")

# The workers share the cores: libraries that start threads of their own, and programs that tests start, take one each.
for library in ("OMP", "OPENBLAS", "MKL", "GDAL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for more threads, those that wait do not spin

# A suite that a shell started in the background ignores Ctrl-C, and the programs that it tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # and one that nohup started ignores the end of its terminal
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Who uses one of these trains or exports a model, or reads one that was made so, and is marked.
TRAINING = {"tiny_run", "tiny_request", "tiny_preset", "job", "notebook", "onnx_of"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TRAINING & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.training)
