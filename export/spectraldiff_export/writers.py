"""Model files, ONNX or TorchScript, by their suffix: built, written under another name, verified, renamed."""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import nn

from spectraldiff.checkpoint import SAMPLES, RunFolder
from spectraldiff.classifier import Classifier
from spectraldiff_export.card import card_of
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.graph import build, example_tile
from spectraldiff_export.quiet import quiet
from spectraldiff_export.verify import Verification, verify
from spectraldiff_runtime.card import ModelCard
from spectraldiff_runtime.engine import CARD_KEY, seal
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.outputs import PartialFile, output_error
from spectraldiff_runtime.workspace import measure_workspace

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
        How it compared with PyTorch.
    """

    path: Path
    size: int
    card: ModelCard
    verification: Verification


def export_run(run: RunFolder, out: Path, overwrite: bool = False) -> Export:
    """Export the model of a finished run; see `export_model`.

    Raises
    ------
    RunError
        The run is missing, unfinished or damaged.
    """
    check_suffix(out)
    classifier, facts = run.load_model()
    samples = run.load_tensors(SAMPLES)
    if "tiles" not in samples:
        raise RunError(f"'{run.path / SAMPLES}' holds no tiles: train again, or restore it")
    return export_model(classifier, card_of(classifier, facts), samples["tiles"], out, overwrite)


def export_model(
    classifier: Classifier, card: ModelCard, samples: torch.Tensor, out: Path, overwrite: bool = False
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

    Raises
    ------
    UsageError
        The suffix is another.
    OutputError
        The file exists or cannot be written.
    VerificationError
        The file does not compute what PyTorch does. It is not left.
    """
    encode = _ENCODERS[check_suffix(out)]
    with PartialFile(out, overwrite) as file:
        data = encode(DeployedClassifier(classifier), card.to_json())
        _write(file, data)
        verification = verify(file.partial, classifier, samples, str(out))
        if encode is onnx_bytes:
            card = replace(card, workspace=measure_workspace(file.partial))
            data = with_card(data, card)
            _write(file, data)
        file.publish()
    return Export(out, len(data), card, verification)


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
    """Trace what has no loop and script the loop over rows around it, so that no size is fixed."""
    scripted, tile = copy.copy(model), example_tile(model)
    rows = model.rows(tile)
    scores = torch.stack([model.row(row) for row in rows])
    scripted._modules = {
        "rows": _traced(model.rows, tile),
        "row": _traced(model.row, rows[0]),
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
