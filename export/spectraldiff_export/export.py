"""Model files, ONNX or TorchScript, by their suffix: built, written under another name, verified, renamed."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from spectraldiff.models.classifier import Classifier
from spectraldiff.options import RUNS
from spectraldiff.training.compute import keep_freed_memory
from spectraldiff.training.data_digest import files_of
from spectraldiff.training.run_folder import SAMPLES, RunFolder, open_run
from spectraldiff.training.run_model import load_model, load_tensors
from spectraldiff_export.card import card_of
from spectraldiff_export.compact.compaction import (
    SILENT,
    CompactOptions,
    Reports,
    check_compact,
    compact_options,
    compacted,
)
from spectraldiff_export.compact.facts import CompactFacts
from spectraldiff_export.compact.student import DeployedStudent, Student
from spectraldiff_export.deepness import deepness_bytes, verify_deepness
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.deployed_outside import deployed
from spectraldiff_export.exported_model import opened_teacher
from spectraldiff_export.onnx_graph import onnx_bytes, with_card
from spectraldiff_export.precision.agreement import Agreement, check_precision, compare, lowered
from spectraldiff_export.torchscript import torchscript_bytes
from spectraldiff_export.verify import Verification, verify
from spectraldiff_runtime.atomic import PartialFile, check_distinct, check_output, output_error
from spectraldiff_runtime.classes import clean_name
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.model.card import PRECISIONS, ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.memory_probe import measure_workspace
from spectraldiff_runtime.model.model_file import read_card, seal
from spectraldiff_runtime.model.model_page import model_page
from spectraldiff_runtime.model.stac_item import stac_item
from spectraldiff_runtime.signals import interrupts_deferred

PAGES, DEEPNESS = "pages", "deepness"
COMPARED = 4  # sample tiles on which a file for Deepness is compared with a map


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
    pages
        The STAC item and the page that were written next to it.
    compact
        How a compact model was made, and how it compares with its full model; None for a full model.
    """

    path: Path
    size: int
    card: ModelCard
    verification: Verification
    agreement: Agreement | None = None
    pages: tuple[Path, ...] = ()
    compact: CompactFacts | None = None


def export(
    run: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    precision: str = PRECISIONS[0],
    overwrite: bool = False,
    runs_dir: str | os.PathLike[str] = RUNS,
    licence: str | None = None,
    attribution: str | None = None,
    program: str | None = None,
    compact: bool = False,
    scenes: Sequence[str | os.PathLike[str]] = (),
    force: bool = False,
) -> Export:
    """Write a trained model as one file that maps scenes without PyTorch.

    Parameters
    ----------
    run
        What `train` returned, or a run folder; None for the run in `runs_dir` that finished last.
    out
        The model file: .onnx, or .pt for TorchScript.
    precision
        ``"fp32"``; ``"int8"``, faster on CPUs; or ``"fp16"``, for GPUs. A lower one is compared with fp32.
    overwrite
        Whether a file that exists is replaced.
    runs_dir
        The folder that holds the runs.
    licence, attribution
        Under what the file may be used, best as an SPDX identifier such as ``"CC-BY-4.0"``, and whom to name; the
        training scene's attribution if None.
    program
        ``"deepness"`` writes the file as this plugin of QGIS takes it; None as `map_scene` and others take it.
    compact, scenes, force
        Whether a small model is written that the full one teaches on its scenes and on further `scenes`, which need no
        labels: many times as fast; and whether it is written also where it agrees too little with its full model.

    Raises
    ------
    UsageError, OutputError
        The suffix or the precision is another, options exclude each other, or the file exists.
    RunError
        The run is missing, unfinished or damaged.
    VerificationError
        The file does not compute what PyTorch does, or a compact model agrees too little. It is not left.

    Examples
    --------
    >>> sd.export(run, "model.onnx").verification.probability  # largest difference to PyTorch, 0..1
    """
    check_suffix(Path(out))
    check_output(Path(out), overwrite)
    options = compact_options(compact, scenes, force)
    told = Reports(warn=lambda text: warnings.warn(text, stacklevel=3))
    folder = open_run(None if run is None else Path(run), Path(runs_dir))
    return export_run(folder, Path(out), overwrite, precision, licence, attribution, program, told, options)


def export_run(
    run: RunFolder,
    out: Path,
    overwrite: bool = False,
    precision: str = PRECISIONS[0],
    licence: str | None = None,
    attribution: str | None = None,
    program: str | None = None,
    told: Reports = SILENT,
    compact: CompactOptions | None = None,
) -> Export:
    """Export the model of a finished run, with its STAC item and its page; see `export` and `export_model`.

    With `compact`, a student is exported that the model teaches.

    Raises
    ------
    RunError
        The run is missing, unfinished or damaged.
    """
    check_suffix(out)
    keep_freed_memory()
    classifier, facts = load_model(run)
    files = (out, *_pages(out, program or PAGES))
    scenes = () if compact is None else map(Path, compact.scenes)
    check_distinct({f"--out with its {path.suffix}": path for path in files}, [*files_of(run), *scenes])
    for path in files:  # at once: a compact model is taught for minutes
        check_output(path, overwrite)
    samples = load_tensors(run, SAMPLES)
    if not {"tiles", "labels"} <= samples.keys():
        raise RunError(f"'{run.path / SAMPLES}' holds no tiles with labels: train again, or restore it")
    card = card_of(classifier, facts)
    named = card.attribution if attribution is None else clean_name(attribution)
    card = replace(card, licence=clean_name(licence or ""), attribution=named)
    tiles, labels, wanted = samples["tiles"], samples["labels"], program or PAGES
    if compact is None:
        return export_model(classifier, card, tiles, out, overwrite, precision, labels, told.begin, wanted)
    check_compact(precision, program)
    teacher = partial(opened_teacher, classifier, card)
    student, card, how, tiles = compacted(run, classifier, card, compact, teacher, told)
    return replace(export_model(student, card, tiles, out, overwrite, begin=told.begin, wanted=wanted), compact=how)


def _pages(out: Path, wanted: str) -> list[Path]:
    """Return the files that are written next to a model file."""
    asked = wanted == PAGES and _ENCODERS[check_suffix(out)] is onnx_bytes
    return [out.with_suffix(suffix) for suffix in (".json", ".md")] if asked else []


def export_model(
    classifier: Classifier | Student,
    card: ModelCard,
    samples: torch.Tensor,
    out: Path,
    overwrite: bool = False,
    precision: str = PRECISIONS[0],
    labels: torch.Tensor | None = None,
    begin: Callable[[str], None] = lambda _: None,
    wanted: str = "",
) -> Export:
    """Write one model file and verify it before it gets its name.

    Parameters
    ----------
    classifier
        The trained model, or a student of it, on the CPU, float32, in evaluation mode.
    card
        What the file says about itself.
    samples
        (n, B, T, T) float32 raw pixels to verify on, see `spectraldiff_export.verify.verify`.
    out
        The file; its suffix, .onnx or .pt, says what is written.
    overwrite
        Whether a file of that name may be replaced.
    precision
        ``"fp32"``, ``"fp16"`` or ``"int8"``, for ONNX; see `spectraldiff_export.precision.agreement`.
    labels
        (n, T - 2 halo, T - 2 halo) labels of test pixels in the samples, 0 for none: a lower precision must keep the
        accuracy on them.
    begin
        Called with the title of each stage when it begins.
    wanted
        `PAGES` for an ONNX file with its STAC item and its page next to it, ``NAME.json`` and ``NAME.md``; `DEEPNESS`
        for one that this plugin takes, see `spectraldiff_export.deepness`; empty for the file alone.

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
    check_precision(out, precision)
    _check_program(out, precision, wanted)
    with PartialFile(out, overwrite) as file, ExitStack() as more:
        pages = [more.enter_context(PartialFile(path, overwrite)) for path in _pages(out, wanted)]
        begin("Conversion")
        data = encode(deployed(classifier), card.to_json())
        _write(file, data)
        begin("Comparison with PyTorch")
        verification, agreement = verify(file.partial, classifier, samples, str(out)), None
        if precision != PRECISIONS[0]:
            begin(f"Comparison of {precision} with {PRECISIONS[0]}")
            data, agreement = _lowered(file, data, samples, labels, precision)
            card = replace(card, precision=precision, agreement=asdict(agreement))
        if encode is onnx_bytes:
            begin("Memory of mapping")
            card = replace(card, workspace=measure_workspace(file.partial))
            data = with_card(data, card)
            _write(file, data)
        if wanted == DEEPNESS:
            begin("Comparison of the file for Deepness with maps")
            model, data = Model.open(file.partial, "cpu"), deepness_bytes(data)
            verify_deepness(data, model, samples[:COMPARED].numpy(), str(out))
            _write(file, data)
        if pages:
            item = json.dumps(stac_item(card, file.partial), ensure_ascii=False, indent=2) + "\n"
            for page, text in zip(pages, (item, model_page(card, out.name)), strict=True):
                _write(page, text.encode())
        with interrupts_deferred():
            for output in (*pages, file):
                output.publish()
    return Export(out, len(data), card, verification, agreement, tuple(page.path for page in pages))


def _check_program(out: Path, precision: str, wanted: str) -> None:
    if wanted not in ("", PAGES, DEEPNESS):
        raise UsageError(f"no file is written for '{wanted}': choose {DEEPNESS}")
    if wanted == DEEPNESS and (precision != PRECISIONS[0] or out.suffix.lower() != ".onnx"):
        raise UsageError(
            f"files for Deepness are ONNX in fp32: name '{out}' with the suffix .onnx, without --precision"
        )


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


_ENCODERS: dict[str, Callable[[DeployedClassifier | DeployedStudent, str], bytes]] = {
    ".onnx": onnx_bytes,
    ".pt": torchscript_bytes,
}
