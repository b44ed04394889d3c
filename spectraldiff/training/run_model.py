"""The tensors of a run folder: its state while it trains, and its model once it is finished."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spectraldiff.models.classifier import Classifier, empty_classifier
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.linear_members import KernelMembers, PixelContext
from spectraldiff.models.normaliser import Normaliser
from spectraldiff.models.presets import Preset
from spectraldiff.models.settings import Member, rebuilt
from spectraldiff.models.vit import ViTConfig
from spectraldiff.training.run_folder import FACTS, MODEL, STATE, RunFolder, open_run
from spectraldiff_runtime.errors import RunError
from spectraldiff_runtime.gdal import check_plain
from spectraldiff_runtime.untrusted import check_tensors

# What a run may ask for at most, so that no folder takes for ever, or memory that its weights do not fill: steps of
# the process, parts of a network, pixels along the side of a window, and any other number.
STEPS, PARTS, WINDOW, NUMBER = 1_000_000, 1_000, 255, 10**9
FORMAT = 4
# Format 3 had flat presets, and `beside` for `band_components`, and `apart` (spatially disjoint) for `members`.
READABLE = (3, FORMAT)
LATER = ("share", "prior")  # runs of before have none


def save_tensors(run: RunFolder, name: str, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors of any device; return the file's SHA-256."""
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    run.write_bytes(name, data)
    return hashlib.sha256(data).hexdigest()


def load_tensors(run: RunFolder, name: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Read tensors; RunError where they are missing, damaged, or not those of that SHA-256; SceneError for a pipe."""
    check_plain(run.path / name)
    try:
        check_tensors(run.path / name)
        data = (run.path / name).read_bytes()
        if sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise RunError(
                f"'{run.path / name}' is damaged (it is not what the training wrote): train again, or restore it"
            )
        return load(data)
    except FileNotFoundError:
        raise RunError(run.missing(name)) from None
    except ValueError as error:
        raise RunError(f"'{run.path / name}' is damaged ({error}): train again, or restore it") from None
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"'{run.path / name}' cannot be read ({error}): it is damaged; train again, or restore it"
        ) from None


def load_state(run: RunFolder) -> dict[str, Tensor]:
    """Return the state of an unfinished training; empty where none was saved yet."""
    return load_tensors(run, STATE) if (run.path / STATE).is_file() else {}


def save_model(run: RunFolder, model: Classifier, facts: Mapping[str, Any]) -> None:
    """Write the trained model; the facts come last, mark the run as finished and know the model's SHA-256."""
    sha256 = save_tensors(run, MODEL, model.state_dict())
    shape = {
        "format": FORMAT,
        "preset": model.preset.to_json(),
        "bands": len(model.fill),
        "features": model.pca_components.shape[1],
        "components": model.pca_components.shape[0],
        "smoothing": model.smoothing.iterations,
        "members": [] if model.vit is None else [asdict(member) for member in model.vit.config.members],
        "band_components": 0 if model.vit is None else model.vit.config.band_components,
        "vit_iterations": None if model.vit is None else model.vit_iterations,
        "linear": [] if model.linear is None else [asdict(context) for context in model.linear.contexts],
        "kernel": [] if model.kernel is None else [asdict(context) for context in model.kernel.contexts],
        "kernel_features": 0 if model.kernel is None else len(model.kernel.phase),
        "outside": None if model.outside is None else model.outside.shape,
        "halo": model.halo,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "sha256": sha256,
    }
    run.write_json(FACTS, {**shape, **facts})


def load_model(run: RunFolder) -> tuple[Classifier, dict[str, Any]]:
    """Return the trained model in evaluation mode, and the facts of model.json.

    Raises
    ------
    RunError
        The run is missing, unfinished, damaged or of another format.
    """
    facts = run.read_json(FACTS)
    if facts.get("format") not in READABLE:
        raise RunError(
            f"the run '{run.path}' has format {facts.get('format')} and this version reads "
            f"{' and '.join(map(str, READABLE))}: train again"
        )
    try:
        preset = Preset.from_json(facts["preset"])
        _check_counts(preset, facts)
        tensors = load_tensors(run, MODEL, facts.get("sha256"))
        _check_sizes(preset, facts, tensors)
        model = _empty(preset, facts)
        defaults = {name: getattr(model, name) for name in LATER}
        model.load_state_dict({**defaults, **tensors})
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"the run '{run.path}' is damaged ({reason}): train again, or restore it") from error
    return model.eval(), facts


def load_denoiser(path: Path, preset: Preset, normaliser: Normaliser) -> Denoiser:
    """Return the denoiser of a finished run, for a training of the same scene with the same settings.

    Raises
    ------
    RunError
        The run is missing, unfinished or damaged, or has no denoiser that fits.
    """
    model, _ = load_model(open_run(path, path.parent))
    found, other = model.extractor.denoiser, "leave out --denoiser to train one"
    if found is None:
        raise RunError(f"the run '{path}' has no denoiser, its model reads the bands: {other}")
    if model.preset.diffusion != preset.diffusion:
        pairs = zip(model.preset.options().items(), preset.options().items(), strict=True)
        names = [f"--{k.replace('_', '-')} {one}, here {two}" for (k, one), (_, two) in pairs if one != two]
        names, hint = [name for name in names if name.startswith("--diffusion")], f"give the same, or {other}"
        if model.preset.name != preset.name:
            names = [f"the preset {model.preset.name}, here {preset.name}"]
        elif model.preset.diffusion.network != preset.diffusion.network or not names:
            names, hint = ["other settings, those of another version of SpectralDiff"], other
        raise RunError(f"the denoiser of '{path}' was trained with {'; '.join(names)}: {hint}")
    ranges = (model.normaliser.low, normaliser.low), (model.normaliser.high, normaliser.high)
    if any(one.shape != two.shape or not torch.equal(one.cpu(), two.cpu()) for one, two in ranges):
        raise RunError(
            f"the denoiser of '{path}' was trained on another scene, or on other bands of it ({len(model.fill)} bands, "
            f"here {len(normaliser.low)}, or other values): {other}"
        )
    return found


def _check_counts(preset: Preset, facts: Mapping[str, Any]) -> None:
    """Raise ValueError where a number that shapes the model is none, or is larger than any that a training gives."""
    shape, network = _shape(preset, facts), preset.diffusion.network
    contexts = _contexts(facts) + _contexts(facts, "kernel")
    outside = facts.get("outside")
    of_vit = facts.get("vit_iterations", facts["smoothing"])
    most = {
        "timesteps": (STEPS, [preset.diffusion.timesteps]),
        "parts": (PARTS, [shape.depth, len(shape.members), len(network.channels), len(contexts)]),
        "windows": (WINDOW, [*(one.window for one in shape.members), *(one.window for one in contexts)]),
        "counts": (NUMBER, [facts["bands"], facts["features"], shape.components, shape.band_components]),
        "kernel features": (NUMBER, [facts.get("kernel_features", 0)]),
        "smoothing": (NUMBER, [facts["smoothing"], *([] if of_vit is None else [of_vit])]),
        "outside": (NUMBER, [0] * 3 if outside is None else outside),
    }
    for name, (limit, found) in most.items():
        if not all(isinstance(one, int) and 0 <= one <= limit for one in found):
            raise ValueError(f"{name} are not whole numbers from 0 to {limit:,}")
    if len(most["outside"][1]) != 3:
        raise ValueError("outside are not three numbers")
    chains = [one.iterations for one in contexts] + most["smoothing"][1][1:]
    if facts["smoothing"] != max(chains):
        raise ValueError(f"{facts['smoothing']} smoothings, and the members have {max(chains)} at most")


def _check_sizes(preset: Preset, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the facts are not those of the tensors, before the model takes memory."""
    with torch.device("meta"):
        wanted = {name: one.shape for name, one in _empty(preset, facts).state_dict().items() if name not in LATER}
    found = {name: one.shape for name, one in tensors.items() if name not in LATER}
    odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if odd:
        raise ValueError(f"{FACTS} has other sizes than {MODEL}, of {odd[0]} and so on")


def _contexts(facts: Mapping[str, Any], name: str = "linear") -> list[PixelContext]:
    return [rebuilt(PixelContext, context) for context in facts.get(name, ())]


def _empty(preset: Preset, facts: Mapping[str, Any]) -> Classifier:
    """Return the model of a run with no weights yet."""
    iterations, kernel = facts.get("vit_iterations", facts["smoothing"]), _contexts(facts, "kernel")
    found = empty_classifier(
        preset,
        facts["bands"],
        _shape(preset, facts),
        facts["features"],
        facts["smoothing"],
        contexts=_contexts(facts),
        vit_iterations=-1 if iterations is None else iterations,
        outside=None if facts.get("outside") is None else tuple(facts["outside"]),
    )
    if kernel:
        found.kernel = KernelMembers(kernel, facts["bands"], facts["kernel_features"], found.classes)
    return found


def _shape(preset: Preset, facts: Mapping[str, Any]) -> ViTConfig:
    """Return the shape of the classifier from the facts of a run."""
    components, classes = facts["components"], len(facts["classes"])
    if facts["format"] == FORMAT:
        members = tuple(rebuilt(Member, values) for values in facts["members"]) or preset.members()
        return preset.vit(components, classes, members, facts["band_components"])
    return preset.vit(components, classes, preset.members(facts["apart"]), facts["beside"])
