"""ONNX Runtime sessions on the CPU or on CUDA, without its noise and without silent fallbacks."""

import contextlib
import ctypes
import io
import os
import sys
from typing import Any, Literal

import onnxruntime

from .errors import DeviceError, ModelFileError

Device = Literal["cpu", "cuda"]

# TF32 rounds to 10 bits: classes would depend on the device. The search for convolutions by heuristic
# does not run each candidate at each new tile size.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

_SILENT = 4


def cpu_threads() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def open_session(
    data: bytes, device: Literal["auto", "cpu", "cuda"], threads: int, name: str, arena: bool = True
) -> tuple[Any, Device]:
    """Start a model on a device; return the session and the device that it really uses.

    Parameters
    ----------
    arena
        Whether the CPU's memory is kept for the next run. That is faster, and holds up to twice what is in use.

    Raises
    ------
    DeviceError
        CUDA was asked for and does not work here.
    ModelFileError
        ONNX Runtime does not accept the model.
    """
    onnxruntime.set_default_logger_severity(_SILENT)
    reason = "" if device == "cpu" else why_no_cuda()
    if device == "cuda" and reason:
        raise DeviceError(_no_cuda(reason))
    if device != "cpu" and not reason:
        session = _cuda_session(data, threads)
        if session is not None:
            return session, "cuda"
        if device == "cuda":
            raise DeviceError(_no_cuda("its CUDA or cuDNN libraries are missing"))
    return _session(data, threads, ["CPUExecutionProvider"], name, arena), "cpu"


def _no_cuda(reason: str) -> str:
    return (
        f"--device cuda was asked for and CUDA does not work here ({reason}): "
        "pip install 'spectraldiff[gpu]' on a machine with an NVIDIA GPU, or use --device cpu"
    )


def why_no_cuda() -> str:
    """Return why CUDA cannot be used, or an empty text where there is a driver, a GPU and a provider."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime is built without CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return ""


def _cuda_session(data: bytes, threads: int) -> Any | None:
    """Start on CUDA; None where ONNX Runtime fell back to the CPU, which it does with a mere log line."""
    if hasattr(onnxruntime, "preload_dlls"):  # finds CUDA in the nvidia-* packages; prints what is missing
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            onnxruntime.preload_dlls()
    providers = [("CUDAExecutionProvider", CUDA_OPTIONS), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(data, _options(threads), providers=providers)
    except Exception:  # ONNX Runtime's own exception types differ between versions
        return None
    return session if "CUDAExecutionProvider" in session.get_providers() else None


def _session(data: bytes, threads: int, providers: list[str], name: str, arena: bool) -> Any:
    try:
        options = _options(threads)
        options.enable_cpu_mem_arena = arena
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own exception types differ between versions
        reason = str(error).splitlines()[0]
        raise ModelFileError(f"{name} cannot be run ({reason}): export it again") from error


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # Idle inference threads would otherwise spin on the cores that reading and gathering want.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
