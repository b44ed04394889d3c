"""Objects as bytes for another process of the same training, large arrays and tensors beside them without a copy.

Never for files: what is unpacked may run code.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BESIDE = 2**16  # bytes of an array from which it goes beside


def pack(value: Any) -> tuple[bytearray, list[Tensor]]:
    """Return what `unpack` takes: an object without its tensors and large arrays, and the bytes of each of these."""
    file = io.BytesIO()
    packer = _Packer(file, 5)
    packer.dump(value)
    return bytearray(file.getbuffer()), packer.parts


def unpack(skeleton: bytes, read: Callable[[int], Tensor], device: torch.device) -> Any:
    """Put an object together again.

    Parameters
    ----------
    skeleton
        From `pack`.
    read
        Returns the next part of those that `pack` returned, of so many bytes.
    device
        Gets the tensors that were on a GPU.
    """
    return _Unpacker(io.BytesIO(skeleton), read, device).load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.parts: list[Tensor] = []
        self._known: dict[int, tuple[Any, Any]] = {}  # what was packed, which keeps its id, and how

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return ("device", value.type) if value.type == "cuda" else None
        plain = isinstance(value, np.ndarray) and type(value) is np.ndarray and not value.dtype.hasobject
        if not isinstance(value, Tensor) and not (plain and value.nbytes >= BESIDE):
            return None
        if id(value) not in self._known:
            described = self._tensor(value) if isinstance(value, Tensor) else self._array(value)
            self._known[id(value)] = value, (len(self._known), *described)
        return self._known[id(value)][1]

    def _tensor(self, value: Tensor) -> tuple[Any, ...]:
        plain = value.detach().cpu()
        order = sorted(range(plain.ndim), key=plain.stride, reverse=True)  # as it lies in memory
        self.parts.append(plain.permute(order).contiguous().flatten().view(torch.uint8))
        kind = "parameter" if isinstance(value, nn.Parameter) else "tensor"
        return kind, value.dtype, tuple(plain.shape), tuple(order), value.is_cuda, value.requires_grad

    def _array(self, value: Any) -> tuple[Any, ...]:
        flat = np.require(value, requirements=["C", "W"]).reshape(-1).view(np.uint8)
        self.parts.append(torch.from_numpy(flat))
        return "array", value.dtype, value.shape


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, read: Callable[[int], Tensor], device: torch.device) -> None:
        super().__init__(file)
        self._read, self._device = read, device
        self._found: dict[int, Any] = {}

    def persistent_load(self, described: Any) -> Any:
        if described[0] == "device":
            return self._device
        number, kind, *rest = described
        if number not in self._found:
            self._found[number] = self._array(*rest) if kind == "array" else self._tensor(kind, *rest)
        return self._found[number]

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        return self._read(int(np.prod(shape)) * dtype.itemsize).numpy().view(dtype).reshape(shape)

    def _tensor(
        self, kind: str, dtype: torch.dtype, shape: tuple[int, ...], order: tuple[int, ...], gpu: bool, learns: bool
    ) -> Tensor:
        size = int(np.prod(shape))
        part = self._read(size * dtype.itemsize).view(dtype).view([shape[axis] for axis in order])
        back = [order.index(axis) for axis in range(len(order))]
        found = part.permute(back).to(self._device if gpu else "cpu")
        return nn.Parameter(found, learns) if kind == "parameter" else found.requires_grad_(learns)
