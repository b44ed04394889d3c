"""The way a GPU is used, tried with the CPU's provider: bindings, two runs under way, one shape for all tiles."""

import dataclasses
import threading

import numpy as np
import onnxruntime
import pytest

from spectraldiff_runtime import ArrayScene, Model, map_block, map_scene
from spectraldiff_runtime.errors import DeviceError, UsageError
from spectraldiff_runtime.model import cuda
from spectraldiff_runtime.model import session as session_module
from spectraldiff_runtime.model.io_binding import BoundSession
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.model.oom import BatchSplitter
from spectraldiff_runtime.output.block import RequestedLayers
from spectraldiff_runtime.window import Window

ALL = ["classes", "confidence", "probabilities"]


class Watched:
    """A session that notes the shapes it is given and how many runs are under way at once."""

    def __init__(self, session):
        self.session, self.shapes, self.names = session, [], []
        self.running = self.most = 0
        self.lock = threading.Lock()

    def run(self, names, feeds, options):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.shapes.append(feeds["tile"].shape)
            self.names.append(list(names))
        try:
            return self.session.run(names, feeds, options)
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture
def on_gpu(model):
    """The model as on a GPU, whose part the CPU's provider plays."""
    session = Watched(BoundSession(model.session, "cpu", 0, session_module.GPU_RUNS))
    splitter, buffers = BatchSplitter(True, session_module.GPU_RUNS), cuda.PinnedBuffers(0)
    return dataclasses.replace(model, device="cuda", session=session, splitter=splitter, buffers=buffers)


def tiles(count, height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 1000, (count, 7, height, width)).astype(np.float32)


@pytest.mark.parametrize("names", [ALL, ALL[:1], ALL[:2], [ALL[0], ALL[2]]])
def test_bindings_give_what_plain_runs_give(model, names):
    """Bit for bit, also when shapes change and change back, and what was given stays as it was."""
    bound, given, wanted = BoundSession(model.session, "cpu"), [], []
    for seed, shape in enumerate([(3, 9, 12), (3, 9, 12), (1, 9, 12), (2, 20, 8), (3, 9, 12)]):
        feeds = {"tile": tiles(*shape, seed)}
        given.append(bound.run(names, feeds, onnxruntime.RunOptions()))
        wanted.append(model.session.run(names, feeds))
    for one, other in zip(given, wanted, strict=True):
        assert [a.dtype for a in one] == [a.dtype for a in other]
        for array, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, right)


def test_inputs_that_do_not_lie_in_one_piece(model):
    odd = tiles(4, 9, 24)[::2, :, :, ::2]
    (found,) = BoundSession(model.session, "cpu").run(ALL[:1], {"tile": odd})
    np.testing.assert_array_equal(found, model.session.run(ALL[:1], {"tile": odd})[0])


def test_many_threads_on_two_slots(model):
    bound, found = Watched(BoundSession(model.session, "cpu", 0, 2)), {}

    def work(seed):
        found[seed] = bound.run(ALL[:2], {"tile": tiles(2, 16, 16 + seed % 3, seed)}, None)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, arrays in found.items():
        wanted = model.session.run(ALL[:2], {"tile": tiles(2, 16, 16 + seed % 3, seed)})
        for array, right in zip(arrays, wanted, strict=True):
            np.testing.assert_array_equal(array, right)
    assert len(found) == 12


def test_a_run_can_be_ended(model):
    options = onnxruntime.RunOptions()
    options.terminate = True
    bound = BoundSession(model.session, "cpu")
    with pytest.raises(Exception, match="terminate"):
        bound.run(ALL[:1], {"tile": tiles(1, 9, 9)}, options)
    assert bound.run(ALL[:1], {"tile": tiles(1, 9, 9)})[0].shape == (1, 5, 5)


@pytest.mark.parametrize("tile", [5, 16, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_map_is_that_of_the_cpu(model, on_gpu, write_scene, cube, tile, batch, monkeypatch):
    monkeypatch.setattr("spectraldiff_runtime.tiling.memory_plan._strip_size", lambda *_: (13, 20))
    cube = cube.copy()
    cube[3:7, 5:30], cube[20:, 30:] = 0, 0
    path = write_scene(values=cube, nodata=0)
    wanted = map_scene(model, path, tile=tile, batch=batch, confidence=True)
    found = map_scene(on_gpu, path, tile=tile, batch=batch, confidence=True)
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-5)
    seen = on_gpu.session
    assert len({shape[2:] for shape in seen.shapes}) == 1, "each new shape has all convolutions planned anew"
    assert seen.most <= session_module.GPU_RUNS
    assert all(names == ALL[:2] for names in seen.names), "only what is wanted is brought back"


def test_memory_for_batches_is_kept_from_map_to_map(model, on_gpu, write_scene, cube, monkeypatch):
    asked = []
    monkeypatch.setattr(cuda, "page_locked", lambda number, size: asked.append(size))
    path, wanted = write_scene(values=cube), map_scene(model, cube).classes
    for _ in range(10):
        np.testing.assert_array_equal(map_scene(on_gpu, path, tile=8).classes, wanted)
        block = map_block(on_gpu, ArrayScene(cube), Window(0, 29, 0, 37), tile=8)
        np.testing.assert_array_equal(block.classes, wanted[:29, :37])
    assert 0 < len(asked) < 10  # how many wait at once is a matter of chance, but it is few


def test_two_runs_are_under_way(model, cube):
    """Each run waits for another one to begin: one at a time would never end."""
    meeting = threading.Barrier(2, timeout=20)

    class Meeting(Watched):
        def run(self, names, feeds, options):
            meeting.wait()
            return super().run(names, feeds, options)

    session = Meeting(BoundSession(model.session, "cpu", 0, 2))
    paired = dataclasses.replace(model, device="cuda:1", session=session, splitter=BatchSplitter(True, 2))
    found = map_scene(paired, cube[:16, :32], tile=8)
    np.testing.assert_array_equal(found.classes, map_scene(model, cube[:16, :32]).classes)
    assert len(session.shapes) == 8


def test_an_error_in_one_of_two_runs_ends_the_map(model, on_gpu, cube):
    class Failing:
        def run(self, names, feeds, options):
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    broken = dataclasses.replace(on_gpu, session=Failing())
    with pytest.raises(DeviceError, match=r"the GPU cannot run the model \(CUDA failure 700: an illegal memory access"):
        map_scene(broken, cube, tile=8)


def test_a_block_has_one_shape_too(model, on_gpu, cube):
    wanted = map_block(
        model, ArrayScene(cube), Window(0, 29, 0, 37), tile=8, requested=RequestedLayers(probabilities=True)
    )
    found = map_block(
        on_gpu, ArrayScene(cube), Window(0, 29, 0, 37), tile=8, requested=RequestedLayers(probabilities=True)
    )
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    assert len(set(on_gpu.session.shapes)) == 1


@pytest.mark.parametrize(
    ("device", "number"), [("cpu", None), ("auto", None), ("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)]
)
def test_devices_have_numbers(device, number):
    assert session_module.gpu_of(device) == number


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cpu:0", "cuda:1\n", ""])
def test_devices_that_there_are_not(model_path, device):
    with pytest.raises(UsageError, match="wanted auto, cpu, cuda, or cuda:1"):
        Model.open(model_path, device)


def test_the_command_names_devices(sdiff, model_path, write_scene, tmp_path):
    code, _, err = sdiff("map", write_scene(), "--model", model_path, "--out", tmp_path / "c.tif", "--device", "tpu")
    assert code == 2
    assert err == "sdiff: error: --device is 'tpu': wanted auto, cpu, cuda, or cuda:1 for the second GPU\n"
    assert not (tmp_path / "c.tif").exists()


class FakeCuda:
    """`InferenceSession` as with CUDA, whose part the CPU's provider plays."""

    def __init__(self, monkeypatch):
        self.calls, self.providers, real = [], None, onnxruntime.InferenceSession

        class Session:
            def __init__(self, data, options, providers):
                fake.calls.append("session")
                fake.providers = providers
                self._real = real(data, options, providers=["CPUExecutionProvider"])

            def get_providers(self):
                return [p if isinstance(p, str) else p[0] for p in fake.providers]

            def __getattr__(self, name):
                return getattr(self._real, name)

        fake = self
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: self.calls.append("preload"), raising=False)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(session_module.cuda, "has_driver", lambda: True)
        monkeypatch.setattr(session_module.cuda, "count_gpus", lambda: 2)


@pytest.fixture
def fake_cuda(monkeypatch):
    return FakeCuda(monkeypatch)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "1"), ("int8", "0")])
@pytest.mark.parametrize(
    ("device", "used", "number"), [("auto", "cuda", "0"), ("cuda", "cuda", "0"), ("cuda:1",) * 2 + ("1",)]
)
def test_how_cuda_is_asked_for(fake_cuda, tmp_path, build_onnx, changed_card, precision, tf32, device, used, number):
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(build_onnx(changed_card(precision=precision))))
    model = Model.open(path, device, threads=1)
    assert (model.device, model.gpu, model.runs, model.gpu_memory) == (used, int(number), 2, None)
    assert fake_cuda.calls == ["preload", "session"]
    name, options = fake_cuda.providers[0]
    assert name == "CUDAExecutionProvider"
    assert options == {
        "device_id": number,
        "use_tf32": tf32,
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert isinstance(model.session, BoundSession)


def test_a_gpu_that_there_is_not(fake_cuda, model_path):
    with pytest.raises(DeviceError, match=r"--device cuda:2 .*finds 2 GPUs, counted from cuda:0"):
        Model.open(model_path, "cuda:2")
    assert fake_cuda.calls == []


def test_why_a_session_cannot_be_had_is_said(fake_cuda, model_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("CUDA failure 2: out of memory\nand a trace")

    monkeypatch.setattr(session_module.onnxruntime, "InferenceSession", refuse)
    with pytest.raises(DeviceError, match=r"does not work here \(CUDA failure 2: out of memory\)"):
        Model.open(model_path, "cuda")
