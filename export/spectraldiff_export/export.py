"""Model files, ONNX or TorchScript, by their suffix: built, written under another name, verified, renamed."""

import copy
import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from spectraldiff.models.classifier import Classifier
from spectraldiff.training.run_folder import SAMPLES, RunFolder
from spectraldiff_export.agreement import Agreement, compare, lowered
from spectraldiff_export.card import card_of
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.onnx_graph import build, example_tile
from spectraldiff_export.quiet import quiet
from spectraldiff_export.verify import Verification, verify
from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.model.card import PRECISIONS, ModelCard
from spectraldiff_runtime.model.engine import CARD_KEY, read_card, seal
from spectraldiff_runtime.model.memory_probe import measure_workspace

# Where a TorchScript file keeps its card: torch.jit.load(file, _extra_files={"card.json": ""}).
CARD_FILE = "card.json"


@dataclass(frozen=True)
class Export:
    """A model file that was written and verified.

    Attributes
    ----------
    path, size
        The file and its bytes.
    card
        What the file says about itself.
    verification
        How it, or the fp32 model that it was made from, compared with PyTorch.
    agreement
        How a model of lower precision compared with fp32; None for fp32.
    """

    path: Path
    size: int
    card: ModelCard
    verification: Verification
    agreement: Agreement | None = None


def export_run(run: RunFolder, out: Path, overwrite: bool = False, precision: str = PRECISIONS[0]) -> Export:
    """Export the model of a finished run; see `export_model`.

    Raises
    ------
    RunError
        The run is missing, unfinished or damaged.
    """
    check_suffix(out)
    classifier, facts = run.load_model()
    samples = run.load_tensors(SAMPLES)
    if not {"tiles", "labels"} <= samples.keys():
        raise RunError(f"'{run.path / SAMPLES}' holds no tiles with labels: train again, or restore it")
    card = card_of(classifier, facts)
    return export_model(classifier, card, samples["tiles"], out, overwrite, precision, samples["labels"])


def export_model(
    classifier: Classifier,
    card: ModelCard,
    samples: torch.Tensor,
    out: Path,
    overwrite: bool = False,
    precision: str = PRECISIONS[0],
    labels: torch.Tensor | None = None,
) -> Export:
    """Write one model file and verify it before it gets its name.

    Parameters
    ----------
    classifier
        The trained model, on the CPU, float32, in evaluation mode.
    card
        What the file says about itself.
    samples
        (n, B, T, T) float32 raw pixels to verify on, see `spectraldiff_export.verify.verify`.
    out
        The file; its suffix, .onnx or .pt, says what is written.
    overwrite
        Whether a file of that name may be replaced.
    precision
        ``"fp32"``, ``"fp16"`` or ``"int8"``, for ONNX; see `spectraldiff_export.precision`.
    labels
        (n, T - 2 halo, T - 2 halo) labels of test pixels in the samples, 0 for none: a lower precision must keep the
        accuracy on them.

    Raises
    ------
    UsageError
        The suffix or the precision is another.
    OutputError
        The file exists or cannot be written.
    VerificationError
        The file does not compute what PyTorch does, or not closely enough in a lower precision. It is not left.
    """
    encode = _ENCODERS[check_suffix(out)]
    _check_precision(out, precision)
    with PartialFile(out, overwrite) as file:
        data = encode(DeployedClassifier(classifier), card.to_json())
        _write(file, data)
        verification, agreement = verify(file.partial, classifier, samples, str(out)), None
        if precision != PRECISIONS[0]:
            data, agreement = _lowered(file, data, samples, labels, precision)
            card = replace(card, precision=precision, agreement=asdict(agreement))
        if encode is onnx_bytes:
            card = replace(card, workspace=measure_workspace(file.partial))
            data = with_card(data, card)
            _write(file, data)
        file.publish()
    return Export(out, len(data), card, verification, agreement)


def _check_precision(out: Path, precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    if precision != PRECISIONS[0] and out.suffix.lower() != ".onnx":
        raise UsageError(f"--precision {precision} is for ONNX files: name '{out}' with the suffix .onnx, or drop it")


def _lowered(
    file: PartialFile, data: bytes, samples: torch.Tensor, labels: torch.Tensor | None, precision: str
) -> tuple[bytes, Agreement]:
    """Put a model of lower precision in the place of the verified one, and compare the two."""
    tiles, inner = samples.numpy(), samples.shape[-1]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "fp32.onnx"
        whole.write_bytes(data)
        lower = seal(lowered(onnx.load_model_from_string(data), precision, tiles).SerializeToString(deterministic=True))
        _write(file, lower)
        inner -= 2 * read_card(whole).halo
        wanted = np.zeros((len(tiles), inner, inner), np.int32) if labels is None else labels.numpy()
        return lower, compare(whole, file.partial, tiles, wanted, precision)


def _write(file: PartialFile, data: bytes) -> None:
    try:
        file.partial.write_bytes(data)
    except OSError as error:
        raise output_error(file.path, error) from error


def check_suffix(out: Path) -> str:
    """Return the suffix of a model file's name in small letters; UsageError where it is none that can be written."""
    suffix = out.suffix.lower()
    if suffix not in _ENCODERS:
        raise UsageError(f"'{out}' has the suffix '{out.suffix}': wanted .onnx, or .pt for TorchScript")
    return suffix


def onnx_bytes(model: DeployedClassifier, card: str) -> bytes:
    """Return a sealed ONNX file with the card's JSON inside; the same model gives the same bytes."""
    return seal(build(model, card).SerializeToString(deterministic=True))


def with_card(data: bytes, card: ModelCard) -> bytes:
    """Return a sealed ONNX file with another card."""
    model = onnx.load_model_from_string(data)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {CARD_KEY: card.to_json()})
    return seal(model.SerializeToString(deterministic=True))


def torchscript_bytes(model: DeployedClassifier, card: str) -> bytes:
    """Return a TorchScript file with the card's JSON as `CARD_FILE`; `torch.jit.load` reads it without this package."""
    buffer = io.BytesIO()
    with torch.no_grad(), quiet():
        torch.jit.save(_scripted(model), buffer, _extra_files={CARD_FILE: card.encode()})
    return _without_sources(buffer.getvalue())


def _scripted(model: DeployedClassifier) -> nn.Module:
    """Trace what has no loop and script a loop over rows around it, so that no size is fixed."""
    tile = example_tile(model)
    if not model.row_by_row:
        return _traced(model, tile)
    scripted, rows = copy.copy(model), model.front(tile)
    scores = torch.stack([model.reader(row) for row in rows])
    scripted._modules = {
        "front": _traced(model.front, tile),
        "reader": _traced(model.reader, rows[0]),
        "verdict": _traced(model.verdict, scores),
    }
    module: nn.Module = torch.jit.script(scripted)
    return module


def _traced(part: nn.Module, example: torch.Tensor) -> nn.Module:
    # The file is verified as a whole, on more sizes than the tracer's own check would try.
    traced: nn.Module = torch.jit.trace(part, example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def _without_sources(archive: bytes) -> bytes:
    """Drop what a TorchScript archive says of the source files that it came from, with their paths."""
    reader, out = torch._C.PyTorchFileReader(io.BytesIO(archive)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(out)
    for name in reader.get_all_records():
        generated = name in ("version", "byteorder") or name.startswith(".data/")  # the writer makes them anew
        if not generated and not name.endswith(".debug_pkl") and not name.startswith("traced_inputs"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return out.getvalue()


_ENCODERS: dict[str, Callable[[DeployedClassifier, str], bytes]] = {".onnx": onnx_bytes, ".pt": torchscript_bytes}
