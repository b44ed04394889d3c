"""Limits of this machine: matrix products through ONNX Runtime, copies in memory, reading a file."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

REPEATS = 5
PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = 256 * 2**20
READ_BYTES = 8 * 2**20
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# On the CPU, float16 products are computed in float32: there is no ceiling of their own.
PRECISIONS = {"cpu": ("float32", "bfloat16", "int8"), "cuda": ("float32", "float16", "bfloat16", "int8")}


class Ceiling(NamedTuple):
    """A speed per second: the best and the median of `REPEATS` runs; or the reason why there is none."""

    best: float
    median: float
    reason: str = ""


def of_times(work: float, run: Callable[[], None], repeats: int = REPEATS) -> Ceiling:
    """Return the work per second over several runs, after a warm-up run."""
    speeds = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        run()
        if number:
            speeds.append(work / (time.perf_counter() - started))
    return Ceiling(max(speeds), median(speeds))


def product_model(precision: str, size: int, signed: bool) -> bytes:
    """Return a model of one product x @ w, both (size, size), of random and constant `w`.

    Parameters
    ----------
    precision
        ``"int8"`` (int32 sums) or one of `KINDS`; float16 and bfloat16 are cast from float32 outside of the product.
    signed
        Whether `x` of an int8 product is signed, as CUDA requires; CPUs are fastest with unsigned by signed.
    """
    values = np.random.default_rng(0).integers(-99, 99, (size, size))
    if precision == "int8":
        kind, made = (TensorProto.INT8 if signed else TensorProto.UINT8), TensorProto.INT32
        weights = numpy_helper.from_array(values.astype(np.int8), "w")
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    else:
        kind = made = KINDS[precision]
        weights = helper.make_tensor("w", kind, (size, size), _raw(values / 99, precision), raw=True)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "product", [value("x", kind, (size, size))], [value("y", made, (size, size))], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _raw(values: NDArray[np.float64], precision: str) -> bytes:
    """Return values as stored in an ONNX tensor; bfloat16 is the upper half of float32."""
    if precision == "bfloat16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype("<f2" if precision == "float16" else "<f4").tobytes()


def product_speed(precision: str, device: str, threads: int, size: int | None = None) -> Ceiling:
    """Return the operations per second of a matrix product, two for each multiply-add."""
    size = size or PRODUCT_SIZES[device]
    try:
        session, binding = _product(precision, device, threads, size)
        return of_times(2.0 * size**3, lambda: session.run_with_iobinding(binding))
    except Exception as error:  # ONNX Runtime's own exception types differ between versions
        return Ceiling(0.0, 0.0, _shortened(str(error)))


@cache  # making the weights and the session takes far longer than a GPU's product
def _product(precision: str, device: str, threads: int, size: int) -> tuple[Any, Any]:
    """Return the session of a product, and the binding of its input and output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    model = product_model(precision, size, signed=device == "cuda")
    session = onnxruntime.InferenceSession(model, options, providers=providers(device))
    return session, _bound(session, precision, device, size)


def _bound(session: Any, precision: str, device: str, size: int) -> Any:
    """Bind input and output to the device's memory, so that no copy is timed."""
    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}.get(precision)
    if kind is None:
        kind = np.int8 if device == "cuda" else np.uint8
    made = {"int8": TensorProto.INT32}.get(precision) or KINDS[precision]
    binding, x = session.io_binding(), np.ones((size, size), kind)
    if precision == "bfloat16":
        value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(x, TensorProto.BFLOAT16)
        binding.bind_ortvalue_input("x", value)
    else:
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0))
    binding.bind_output("y", device, 0, made)
    return binding


def providers(device: str) -> list[Any]:
    """Return the execution providers of ONNX Runtime; on CUDA without TF32, which is not float32."""
    return [("CUDAExecutionProvider", {"use_tf32": "0"})] if device == "cuda" else ["CPUExecutionProvider"]


def _shortened(message: str) -> str:
    return message.splitlines()[0].split(" : ")[-1][:120]


def copy_speed(threads: int, size: int = COPIED_BYTES) -> Ceiling:
    """Return the bytes per second of a copy in memory, counted when read and when written."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    edges = np.linspace(0, size, threads + 1).astype(int)
    parts = [(target[a:b], source[a:b]) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        return of_times(2.0 * size, lambda: _copy(parts, pool))


def _copy(parts: Sequence[tuple[Any, Any]], pool: ThreadPoolExecutor) -> None:
    list(pool.map(lambda part: np.copyto(*part), parts))


def device_copy_speed(values: int = 2**28) -> Ceiling:
    """Return the bytes per second of a GPU's memory: float32 values negated, counted when read and when written."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "copy",
        [value("x", TensorProto.FLOAT, (values,))],
        [value("y", TensorProto.FLOAT, (values,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers("cuda"))
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(values, np.float32), "cuda", 0)
    binding.bind_ortvalue_input("x", x)
    binding.bind_output("y", "cuda", 0, TensorProto.FLOAT)
    return of_times(8.0 * values, lambda: session.run_with_iobinding(binding))


def read_speed(path: Path) -> Ceiling:
    """Return the bytes per second of reading a whole file, after it was dropped from the system's cache."""
    return of_times(path.stat().st_size, lambda: _read(path))


def _read(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
