"""A deployed classifier as TorchScript, its card inside."""

import copy
import io

import torch
from torch import nn

from spectraldiff_export.compact.student import DeployedStudent
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.onnx_graph import example_tile
from spectraldiff_export.quiet import quiet

# Where a TorchScript file keeps its card: torch.jit.load(file, _extra_files={"card.json": ""}).
CARD_FILE = "card.json"


def torchscript_bytes(model: DeployedClassifier | DeployedStudent, card: str) -> bytes:
    """Return a TorchScript file with the card's JSON as `CARD_FILE`; `torch.jit.load` reads it without this package."""
    buffer = io.BytesIO()
    with torch.no_grad(), quiet():
        torch.jit.save(_scripted(model), buffer, _extra_files={CARD_FILE: card.encode()})
    return _without_sources(buffer.getvalue())


def _scripted(model: DeployedClassifier | DeployedStudent) -> nn.Module:
    """Trace what has no loop and script a loop over rows around it, so that no size is fixed."""
    tile = example_tile(model)
    if isinstance(model, DeployedStudent) or not model.row_by_row:
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
