"""What the driver is asked, with a driver that is a fake."""

import ctypes
import gc

import numpy as np
import pytest

from spectraldiff_runtime.model import cuda
from spectraldiff_runtime.tiling.gather import gather_tiles
from spectraldiff_runtime.window import Window


class Driver:
    """Two GPUs; memory comes from NumPy; counts what is held."""

    def __init__(self):
        self.memory, self.contexts, self.pushed, self.full = {}, 0, 0, False

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = number
        return 0 if number < 2 else 101

    def cuDeviceGetPCIBusId(self, text, size, device):  # noqa: N802
        text.value = f"0000:1{device.value}:00.0".encode()
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):  # noqa: N802
        self.contexts += 1
        context._obj.value = 7
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device):  # noqa: N802
        self.contexts -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context):  # noqa: N802
        self.pushed += 1
        return 0

    def cuCtxPopCurrent_v2(self, context):  # noqa: N802
        self.pushed -= 1
        return 0

    def cuMemGetInfo_v2(self, free, total):  # noqa: N802
        assert self.pushed == 1
        free._obj.value, total._obj.value = 3 * 10**9, 8 * 10**9
        return 0

    def cuMemHostAlloc(self, address, size, flags):  # noqa: N802
        assert self.pushed == 1
        assert flags == 1
        if self.full:
            return 2
        memory = np.zeros(size.value, np.uint8)
        self.memory[memory.ctypes.data] = memory
        address._obj.value = memory.ctypes.data
        return 0

    def cuMemFreeHost(self, address):  # noqa: N802
        del self.memory[address.value]
        return 0


@pytest.fixture
def driver(monkeypatch):
    fake = Driver()
    monkeypatch.setattr(cuda, "_driver", lambda: fake)
    return fake


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setattr(cuda, "_driver", lambda: None)


def test_what_the_driver_says(driver):
    assert cuda.has_driver()
    assert cuda.count_gpus() == 2
    assert cuda.free_memory(1) == 3 * 10**9
    assert cuda.free_memory(2) is None
    assert (cuda.bus_id(1), cuda.bus_id(2)) == ("0000:11:00.0", None)
    assert driver.contexts == driver.pushed == 0


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver():
    assert not cuda.has_driver()
    assert cuda.count_gpus() == 0
    assert cuda.free_memory(0) is cuda.bus_id(0) is cuda.page_locked(0, 10) is None
    buffers = cuda.PinnedBuffers(0)
    assert buffers.acquire((2, 3)).shape == (2, 3)


def test_a_library_that_is_not_there_is_no_driver(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert cuda._driver.__wrapped__() is None


def test_page_locked_memory_is_given_back_with_its_last_array(driver):
    memory = cuda.page_locked(0, 64)
    view = memory.view(np.float32)[3:]
    view[:] = 5
    del memory
    gc.collect()
    assert len(driver.memory) == 1
    del view
    gc.collect()
    assert not driver.memory
    assert driver.contexts == driver.pushed == 0


def test_rooms_are_used_again(driver):
    buffers = cuda.PinnedBuffers(0)
    first = buffers.acquire((2, 3, 4))
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    second = buffers.acquire((2, 3, 4))
    second[:] = 1
    assert len(driver.memory) == 2
    buffers.release(first)
    again = buffers.acquire((1, 3, 4))
    assert np.shares_memory(first, again)
    buffers.release(again)
    larger = buffers.acquire((4, 3, 4))
    assert len(driver.memory) == 3
    assert not np.shares_memory(larger, second)
    np.testing.assert_array_equal(second, 1)


def test_plain_memory_does_where_none_can_be_locked(driver):
    driver.full = True
    buffers = cuda.PinnedBuffers(0)
    batch = buffers.acquire((5, 5))
    buffers.release(batch)
    assert np.shares_memory(buffers.acquire((5, 5)), batch)
    assert not driver.memory


def test_tiles_are_gathered_into_the_room(driver):
    block = np.random.default_rng(0).integers(0, 99, (3, 20, 20)).astype(np.uint16)
    tiles, fill, buffers = [Window(0, 8, 0, 8), Window(2, 10, 5, 13)], np.zeros(3, np.float32), cuda.PinnedBuffers(0)
    wanted, valid = gather_tiles(block, (0, 0), (20, 20), tiles, 2, fill, 7)
    old = buffers.acquire(wanted.shape)
    old[:] = np.nan
    buffers.release(old)
    found, seen = gather_tiles(block, (0, 0), (20, 20), tiles, 2, fill, 7, allocate=buffers.acquire)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(seen, valid)
    assert np.shares_memory(found, old)
