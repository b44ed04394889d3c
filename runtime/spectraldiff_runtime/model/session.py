"""ONNX Runtime sessions on the CPU or on CUDA, without its noise and without silent fallbacks."""

import contextlib
import io
import os
import re
from functools import cache
from typing import Any

import onnxruntime

from spectraldiff_runtime.errors import DeviceError, ModelFileError, UsageError
from spectraldiff_runtime.model import cuda
from spectraldiff_runtime.model.io_binding import BoundSession

# How CUDA runs models. Since ONNX Runtime 1.20 neither search for convolutions tries candidates out, and both are made
# anew when the shape changes: the lighter one costs less, and `stages.gather` keeps the shape. The arena grows by what
# is asked for, not by powers of two: other processes on the same GPU, and the second run under way, need the rest.
# Left as they are: copies in the run's own stream (others race with the arena), one stream for each run under way (a
# stream of the user's would be one for all), and the wait at a run's end (its outputs are read at once).
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}

# How the CPU's memory grows: by what is asked for (1), and a piece is cut when as little as this is left over. With the
# defaults (powers of two, 128 MB) a run held two and a half times the memory that its tensors need.
ARENA = {"arena_extend_strategy": 1, "max_dead_bytes_per_chunk": 65_536}

# Runs under way at once on a GPU: one is computed while the next is copied there and the last is written.
GPU_RUNS = 2

_SILENT = 4


def cpu_threads() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def gpu_of(device: str) -> int | None:
    """Return the number of the GPU that ``"cuda"`` or ``"cuda:1"`` names, from 0; None for ``"cpu"`` and ``"auto"``.

    Raises
    ------
    UsageError
        The text is none of them.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise UsageError(f"--device is '{device}': wanted auto, cpu, cuda, or cuda:1 for the second GPU")
    return int(match[1] or 0) if device.startswith("cuda") else None


def open_session(
    data: bytes, device: str, threads: int, name: str, *, arena: bool = True, float16: bool = False
) -> tuple[Any, str]:
    """Start a model on a device.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    arena
        Whether the CPU's memory is kept for the next run. That is faster, and holds up to twice what is in use.
    float16
        Whether the model computes in float16, see `cuda_provider`.

    Returns
    -------
    tuple
        The session, and the device that it really uses, one of the last three.

    Raises
    ------
    DeviceError
        CUDA was asked for and does not work here.
    ModelFileError
        ONNX Runtime does not accept the model.
    UsageError
        There is no such device.
    """
    onnxruntime.set_default_logger_severity(_SILENT)
    wanted = gpu_of("cuda" if device == "auto" else device)
    if wanted is not None:
        reason = why_cuda_unavailable(wanted)
        session, reason = (None, reason) if reason else _cuda_session(data, threads, wanted, float16)
        if session is not None:
            return BoundSession(session, "cuda", wanted, GPU_RUNS), "cuda" if device == "auto" else device
        if device != "auto":
            raise DeviceError(_no_cuda(device, reason))
    return _cpu_session(data, threads, name, arena), "cpu"


def _no_cuda(device: str, reason: str) -> str:
    return (
        f"--device {device} was asked for and CUDA does not work here ({reason}): "
        "pip install 'spectraldiff[gpu]' on a machine with an NVIDIA GPU, or use --device cpu"
    )


def why_cuda_unavailable(number: int = 0) -> str:
    """Return why this GPU cannot be used, or an empty text where there is a driver, the GPU and a provider."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime is built without CUDA"
    if not cuda.has_driver():
        return "there is no NVIDIA driver that starts"
    found = cuda.count_gpus()
    if found == 0:
        return "the NVIDIA driver finds no GPU"
    return "" if number < found else f"the NVIDIA driver finds {found} GPU{'s'[: found > 1]}, counted from cuda:0"


def cuda_provider(number: int, float16: bool) -> tuple[str, dict[str, str]]:
    """Return CUDA's provider and its options for ONNX Runtime.

    TF32 cuts float32 down to 10 bits, which a model in float32 must not suffer. But where it is off, ONNX Runtime also
    keeps float16 convolutions from the tensor cores, several times slower: a model in float16, whose values have 10
    bits anyway, gets it. Either way sums are float32 and rounding does not depend on a value's place in a tile.
    """
    return "CUDAExecutionProvider", {**CUDA_OPTIONS, "device_id": str(number), "use_tf32": str(int(float16))}


def load_cuda() -> None:
    """Have ONNX Runtime find CUDA and cuDNN in the nvidia-* packages, where it knows how; before the first session."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):  # it prints what is missing
            onnxruntime.preload_dlls()


def _cuda_session(data: bytes, threads: int, number: int, float16: bool) -> tuple[Any | None, str]:
    """Start on CUDA; None and why where ONNX Runtime fell back to the CPU, which it does with a mere log line."""
    load_cuda()
    providers = [cuda_provider(number, float16), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(data, _options(threads), providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types differ between versions
        return None, _reason(error)
    if "CUDAExecutionProvider" not in session.get_providers():
        return None, "its CUDA or cuDNN libraries are missing"
    return session, ""


def _cpu_session(data: bytes, threads: int, name: str, arena: bool) -> Any:
    """Start on the CPU."""
    options = _options(threads)
    # Memory patterns would need a block in addition to the arena: twice the memory.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena
    if arena:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception types differ between versions
        raise ModelFileError(f"{name} cannot be run ({_reason(error)}): export it again") from error


def _reason(error: Exception) -> str:
    """Return what an error says in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [type(error).__name__])[0]


@cache
def _register_arena() -> None:
    """Set up the memory that all sessions of the process share."""
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(ARENA))


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # Idle inference threads would otherwise spin on the cores that reading and gathering want.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
