"""A model file, the card inside it, and the session that runs it.

The file is ONNX with two fragments around it that protobuf readers merge into its metadata: a head that
says how long the file is, and a trailer with its SHA-256. So a file that was cut short or changed is
known as such before anything of it is run, and ONNX Runtime and others read it as it is.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from spectraldiff_runtime.errors import ModelFileError, SpectralDiffError, UsageError
from spectraldiff_runtime.limits import THREADS
from spectraldiff_runtime.messages import one_line
from spectraldiff_runtime.model.card import ModelCard as ModelCard
from spectraldiff_runtime.model.cuda import PinnedBuffers, free_memory
from spectraldiff_runtime.model.graph_check import check_operators, check_results, check_signature
from spectraldiff_runtime.model.instructions import unlike
from spectraldiff_runtime.model.memory_guard import memory_guarded, trim_heap
from spectraldiff_runtime.model.model_file import is_sealed, parse_card, read_model_bytes
from spectraldiff_runtime.model.oom import OUT_OF_MEMORY, TERMINATED, BatchSplitter, what_failed
from spectraldiff_runtime.model.session import GPU_RUNS, cpu_threads, gpu_of, open_session, why_cuda_unavailable

# What every model gives.
OUTPUTS = ("classes", "confidence", "probabilities")
OUTSIDE = "outside"  # a further output that a file may have

# Bytes of working memory for each padded pixel from which on no memory is kept between runs: it would double.
LARGE_WORKSPACE = 100_000


def _keeps_memory(card: ModelCard) -> bool:
    return (card.workspace or 0) < LARGE_WORKSPACE


def _warn(text: str) -> None:
    warnings.warn(one_line(text), stacklevel=3)


class Prediction(NamedTuple):
    """What a batch of tiles gave; what was not asked for is None.

    `classes` (N, h, w) uint8 (past 254 classes int32) with 1..K, `confidence` (N, h, w) float32 in 0..1,
    `probabilities` (N, K, h, w) float32, and `outside` (N, h, w) uint8, how far pixels are from the training classes:
    the percentage, 0..100, of training-like pixels that are closer; 100 where all are.
    """

    classes: NDArray[Any]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    outside: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Model:
    """A model file that is ready to run; open one with `Model.open`.

    Attributes
    ----------
    card
        What the file says about itself.
    device
        Where it really runs: ``"cpu"``, ``"cuda"`` or, of several GPUs, ``"cuda:1"``.
    threads
        CPU threads that inference and the kernels use.
    rectangular
        Whether the graph takes tiles whose height and width differ.
    digest, size, path
        SHA-256, bytes and absolute path of the file.
    splitter
        What the device's memory was found to hold.
    gpu_memory
        Bytes of the GPU's memory that were free when the model was on it; None on the CPU, or where that is not known.
    buffers
        Memory for batches on their way to the GPU, kept from map to map; None on the CPU.
    outside
        Whether the graph says how far pixels are from the training classes.
    """

    card: ModelCard
    device: str
    threads: int
    rectangular: bool
    session: Any
    digest: str = ""
    size: int = 0
    path: str = ""
    splitter: BatchSplitter = field(default_factory=BatchSplitter, compare=False)
    gpu_memory: int | None = None
    buffers: PinnedBuffers | None = field(default=None, compare=False)
    outside: bool = False

    @property
    def gpu(self) -> int | None:
        """Return the number of the GPU that it runs on, from 0; None on the CPU."""
        return gpu_of(self.device)

    @property
    def runs(self) -> int:
        """Return how many runs should be under way at once to keep the device busy."""
        return 1 if self.gpu is None else GPU_RUNS

    @classmethod
    def open(
        cls,
        path: str | Path,
        device: str = "auto",
        threads: int | None = None,
        *,
        unsealed: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> "Model":
        """Read a model file, check it, and start it on a device.

        Parameters
        ----------
        device
            ``"cpu"``, ``"cuda"``, ``"cuda:1"`` for the second GPU; ``"auto"`` takes CUDA where it works, else the CPU.
        threads
            CPU threads; None for all that this process may use.
        unsealed
            Whether a file that another tool has saved again is taken, with a warning: what the tool did to it is not
            known, and damage is not found.
        warn
            Called with that warning; `warnings.warn` if None.

        Raises
        ------
        ModelFileError
            The file is missing, not ours, not sealed, cut short, changed, or does not do what its card says.
        DeviceError
            CUDA was asked for and does not work here.
        UsageError
            There is no such device, or `threads` is not from 1 to 1,024.
        """
        gpu_of(device)
        if threads is not None and not 1 <= threads <= THREADS:
            raise UsageError(f"threads is {threads}: wanted 1 to {THREADS:,}, or None for all")
        data = read_model_bytes(path, unsealed)
        card = parse_card(data, path)
        if not is_sealed(data):
            (warn or _warn)(
                f"'{path}' is not sealed: another tool has saved it, and nothing says whether it is whole and computes "
                "what was verified at its export; compare its maps with the exported file's"
            )
        check_operators(data, f"'{path}'")
        verified = (card.agreement or {}).get("processor") if card.precision == "int8" else None
        if isinstance(verified, str) and verified and unlike(verified):
            (warn or _warn)(
                f"'{path}' computes in int8, verified on a processor with {verified}, and {unlike(verified)}: classes "
                "may differ from those that were verified; export it again here, or in fp32"
            )
        count = threads or cpu_threads()
        arena = _keeps_memory(card)
        float16 = card.precision == "fp16"
        with memory_guarded(len(data)) if why_cuda_unavailable() or device == "cpu" else nullcontext():
            session, used = open_session(data, device, count, f"'{path}'", arena=arena, float16=float16)
        digest, place = hashlib.sha256(data).hexdigest(), str(Path(path).absolute())
        inputs, outputs = (
            {i.name: (i.type, i.shape) for i in some} for some in (session.get_inputs(), session.get_outputs())
        )
        rectangular = check_signature(inputs, outputs, card, f"'{path}'")
        knows = OUTSIDE in outputs
        model = cls(card, used, count, rectangular, session, digest, len(data), place, outside=knows)
        if model.gpu is None:
            return model
        splitter, free = BatchSplitter(True, model.runs), free_memory(model.gpu)
        return replace(model, splitter=splitter, gpu_memory=free, buffers=PinnedBuffers(model.gpu))

    @staticmethod
    def run_options() -> Any:
        """Return options for `run`, ONNX Runtime's ``RunOptions``."""
        return onnxruntime.RunOptions()

    def run(
        self,
        tiles: NDArray[np.float32],
        *,
        confidence: bool = False,
        probabilities: bool = False,
        outside: bool = False,
        options: Any = None,
    ) -> Prediction:
        """Classify a batch of tiles, (N, B, h + 2 halo, w + 2 halo) float32 in raw units.

        Where memory does not hold the batch, it is run in pieces, see `BatchSplitter`. `options` are those of
        `run_options`: another thread ends the run by setting their ``terminate``.

        Raises
        ------
        DeviceError, MemoryError
            The memory of the GPU, or of the host, does not hold a single tile.
        ModelFileError
            The graph fails, or what it gives has another shape or other values than the card says.
        """
        asked = {"classes": True, "confidence": confidence, "probabilities": probabilities, OUTSIDE: outside}
        names = [name for name, wanted in asked.items() if wanted]
        arrays = self.splitter.run(lambda piece: self._run_piece(names, piece, options), tiles)
        results: Mapping[str, Any] = dict(zip(names, arrays, strict=True))
        return Prediction(*(results.get(name) for name in asked))  # type: ignore[arg-type]

    def release(self) -> None:
        """Give the memory that the CPU's runs have kept back to the system; the next run takes it anew."""
        if self.gpu is not None or not _keeps_memory(self.card):
            return
        options, side = self.run_options(), 2 * self.card.halo + 1
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run_piece(["classes"], np.zeros((1, self.card.bands, side, side), np.float32), options)
        trim_heap()

    def check_outside(self) -> None:
        """Raise UsageError where the graph cannot say how far pixels are from the training classes."""
        if not self.outside:
            raise UsageError(
                f"'{self.path}' cannot say which pixels are unlike its training, as models that were exported before "
                "and those of the paper preset: train and export again, or leave out --outside and --max-outside"
            )

    def _run_piece(self, names: list[str], tiles: NDArray[np.float32], options: Any) -> list[NDArray[Any]]:
        """Run the graph and check what it gives."""
        card, pixels = self.card, tiles.shape[0] * tiles.shape[2] * tiles.shape[3]
        held = pixels * (card.workspace_per_pixel + 4 * (len(card.classes) + 2))
        try:
            with memory_guarded(held) if self.gpu is None else nullcontext():
                arrays: list[NDArray[Any]] = self.session.run(names, {"tile": tiles}, options)
        except Exception as error:  # ONNX Runtime's own exception types differ between versions
            text = str(error)
            known = isinstance(error, MemoryError | SpectralDiffError) or OUT_OF_MEMORY.search(text)
            if known or TERMINATED in text or self.gpu is not None:
                raise
            what, reason = what_failed(text)
            raise ModelFileError(f"'{self.path}' fails in {what} ({reason}): export it again") from error
        check_results(dict(zip(names, arrays, strict=True)), tiles.shape, self.card, f"'{self.path}'")
        return arrays
