"""Memory that runs out in the midst of a map: smaller batches, one line about it, and the same map."""

import dataclasses
import pickle
import threading

import numpy as np
import pytest

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.errors import DeviceError
from spectraldiff_runtime.model.io_binding import BoundSession
from spectraldiff_runtime.model.oom import OUT_OF_MEMORY, BatchSplitter

ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' "
    "Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, Stream*) "
    "Failed to allocate memory for requested buffer of size 8388608000"
)


class Small:
    """A session on a device that holds `most` tiles, of all runs under way together, from its `late`-th run on."""

    def __init__(self, session, most, late=0, message=ARENA):
        self.session, self.most, self.late, self.message = session, most, late, message
        self.lock, self.held, self.sizes, self.refused = threading.Lock(), 0, [], []

    def run(self, names, feeds, options=None):
        size = len(feeds["tile"])
        with self.lock:
            self.late -= 1
            if self.late < 0 and self.held + size > self.most:
                self.refused.append(size)
                raise RuntimeError(self.message)
            self.held += size
            self.sizes.append(size)
        try:
            return self.session.run(names, feeds, options)
        finally:
            with self.lock:
                self.held -= size


def on_gpu(model, most, late=0, runs=2):
    session = Small(BoundSession(model.session, "cpu", 0, runs), most, late)
    return dataclasses.replace(model, device="cuda", session=session, splitter=BatchSplitter(True, runs))


@pytest.mark.parametrize(
    "message",
    [
        ARENA,
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",
        "CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "bfc_arena.cc: Available memory of 17 is smaller than requested bytes of 99",
        "std::bad_alloc",
        "bad allocation",
    ],
)
def test_what_tells_that_memory_ran_out(message):
    assert OUT_OF_MEMORY.search(message)


@pytest.mark.parametrize(
    ("on_gpu", "message"),
    [
        (False, "CUDA failure 700: an illegal memory access was encountered"),
        (False, "Invalid rank for input: tile"),
        (False, "Exiting due to terminate flag being set to true."),
        (True, "Exiting due to terminate flag being set to true."),
    ],
)
def test_other_errors_are_passed_on(on_gpu, message):
    splitter = BatchSplitter(on_gpu, 2)
    with pytest.raises(RuntimeError, match=message):
        splitter.run(failing(message), np.zeros((4, 1, 1, 1), np.float32))
    assert splitter.take_warning() is None


def failing(message):
    def infer(_):
        raise RuntimeError(message)

    return infer


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Error in execution: Non-zero status code returned while running Conv node. Name:'rows.128.Conv' "
            "Status Message: Failed to initialize CUDNN Frontend: /onnxruntime_src/core/cudnn_fe_call.cc:117 std::cond"
            '\n\n with the cudnn frontend json:\n{"context":{}}',
            "the GPU cannot run its Conv (Failed to initialize CUDNN Frontend)",
        ),
        (
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h ; expr=cudaFree(p);",
            "the GPU cannot run the model (CUDA failure 700: an illegal memory access was encountered)",
        ),
    ],
)
def test_a_gpu_that_cannot_run_the_model(message, line):
    with pytest.raises(DeviceError) as caught:
        BatchSplitter(True, 2).run(failing(message), np.zeros((4, 1, 1, 1), np.float32))
    assert str(caught.value) == (
        f"{line}: export it in another precision (`sdiff export --precision fp32`), or use --device cpu"
    )


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 8, 100])
@pytest.mark.parametrize("late", [0, 3])
def test_a_batch_in_pieces_is_the_whole_batch(model, most, late):
    tiles = np.random.default_rng(0).uniform(0, 1000, (8, 7, 12, 10)).astype(np.float32)
    wanted, poor = model.run(tiles, confidence=True, probabilities=True), on_gpu(model, most, late, runs=1)
    for _ in range(3):
        found = poor.run(tiles, confidence=True, probabilities=True)
        for array, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(array, right)
    assert max(poor.session.sizes[late:], default=0) <= most
    assert len(poor.session.refused) <= 3, "what was learnt is kept"


def test_it_is_said_once(model):
    tiles, poor = np.zeros((8, 7, 12, 10), np.float32), on_gpu(model, 2, runs=1)
    assert poor.splitter.take_warning() is None
    poor.run(tiles)
    assert poor.splitter.take_warning() == (
        "the GPU's memory does not hold batches of 4 tiles of 12 x 10 pixels with their halos: "
        "going on with 2 at a time"
    )
    poor.run(tiles)
    assert poor.splitter.take_warning() is None


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("late", [0, 2, 5])
def test_a_map_goes_on_and_is_the_same(model, write_scene, cube, tmp_path, most, late):
    import rasterio

    poor, said = on_gpu(model, most, late), []
    path = write_scene()
    map_scene(model, path, tmp_path / "wanted.tif", tile=6, batch=4, confidence=tmp_path / "wanted-c.tif")
    map_scene(
        poor, path, tmp_path / "found.tif", tile=6, batch=4, confidence=tmp_path / "found-c.tif", warn=said.append
    )
    for name, tolerance in ((".tif", 0), ("-c.tif", 1e-5)):
        with rasterio.open(tmp_path / f"found{name}") as one, rasterio.open(tmp_path / f"wanted{name}") as other:
            np.testing.assert_allclose(one.read(), other.read(), atol=tolerance)
    if most < 4:
        assert said
    assert all("memory does not hold" in line and "\n" not in line for line in said)
    assert len(said) == len(set(said)) <= 3


def test_one_tile_at_a_time_is_the_last_resort(model, cube):
    """Two single tiles at once are too many: they go one after the other, however often they meet."""
    poor, said = on_gpu(model, 1), []
    found = map_scene(poor, cube, tile=4, batch=1, warn=said.append)
    np.testing.assert_array_equal(found.classes, map_scene(model, cube).classes)
    assert len(said) <= 1
    assert len(poor.session.refused) <= 2


def test_a_gpu_that_holds_no_tile_at_all(model, write_scene, tmp_path, listing):
    path = write_scene()
    before = listing()
    with pytest.raises(DeviceError) as caught:
        map_scene(on_gpu(model, 0), path, tmp_path / "classes.tif", tile=8, batch=4)
    assert str(caught.value) == (
        "the GPU's memory does not hold one tile of 12 x 12 pixels with its halo: use a smaller --tile, or --device cpu"
    )
    assert listing() == before
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_hosts_memory_is_another_matter(model):
    poor = dataclasses.replace(model, session=Small(model.session, 0), splitter=BatchSplitter())
    with pytest.raises(MemoryError, match=r"tiles of \(1, 7, 5, 5\)"):
        poor.run(np.zeros((4, 7, 5, 5), np.float32))
    assert poor.session.refused == [4, 2, 1]
