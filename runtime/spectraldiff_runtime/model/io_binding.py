"""Inference with inputs in a device's own memory and nothing brought back but what is asked for.

Each slot is a buffer for the input on the device and a binding. A run copies the tiles there, computes, and leaves the
wanted outputs in the host's memory. ONNX Runtime gives each run that is under way a stream of its own, so that with two
slots one batch is copied while the other is computed. Its copies and its end are left synchronous: outputs are there
when a run returns, and a slot may be filled anew at once.
"""

import queue
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class BoundSession:
    """An ONNX Runtime session with one input, run through bindings; safe to call from several threads.

    Parameters
    ----------
    session
        What runs.
    kind
        Where its input lies: ``"cuda"``, or ``"cpu"`` where the CPU's provider runs it.
    number
        Which of these devices, from 0.
    slots
        Runs that may be under way at once; further ones wait.
    """

    def __init__(self, session: Any, kind: str, number: int = 0, slots: int = 1) -> None:
        self._session = session
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put(_Slot(session, kind, number))

    def get_inputs(self) -> Sequence[Any]:
        """Return names, types and shapes of the inputs."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> Sequence[Any]:
        """Return names, types and shapes of the outputs."""
        outputs: Sequence[Any] = self._session.get_outputs()
        return outputs

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], options: Any = None) -> list[NDArray[Any]]:
        """Return the outputs of these names, as `InferenceSession.run` does."""
        slot = self._free.get()
        try:
            return slot.run(names, feeds, options)
        finally:
            self._free.put(slot)


class _Slot:
    """A binding, and the input's buffer, which is kept while shapes stay the same."""

    def __init__(self, session: Any, kind: str, number: int) -> None:
        self._session, self._place = session, (kind, number)
        self._binding = session.io_binding()
        self._input: Any = None

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]], options: Any) -> list[NDArray[Any]]:
        ((name, values),) = feeds.items()
        self._fill(name, values)
        # Bound anew for each run: what the last one has left there would have to have the shape of this one's.
        self._binding.clear_binding_outputs()
        for wanted in names:
            self._binding.bind_output(wanted, "cpu")
        self._session.run_with_iobinding(self._binding, options)
        arrays: list[NDArray[Any]] = self._binding.copy_outputs_to_cpu()
        return arrays

    def _fill(self, name: str, values: NDArray[Any]) -> None:
        """Copy the input to the device; a buffer of another shape is given up first."""
        if self._input is None or tuple(self._input.shape()) != values.shape:
            self._input = None
            self._binding.clear_binding_inputs()
            make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            self._input = make(list(values.shape), values.dtype.type, *self._place)
            self._binding.bind_ortvalue_input(name, self._input)
        self._input.update_inplace(np.ascontiguousarray(values))
