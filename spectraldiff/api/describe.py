"""What a model file, a raster or a run folder says about itself."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectraldiff_runtime.errors import ModelFileError, RunError
from spectraldiff_runtime.limits import CARD_BYTES
from spectraldiff_runtime.messages import ranges, resume_command
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.untrusted import check_tensors, read_run_json

if TYPE_CHECKING:
    from spectraldiff_runtime.products.product import Product

CARD_MEMBER = "extra/card.json"
# What `zipfile` raises for archives that are damaged, encrypted (RuntimeError) or of an unknown kind.
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)
TENSORS = "model.safetensors"


def describe(file: str) -> dict[str, Any]:
    """Return what is known of a file or folder; its key ``kind`` says what it is.

    Raises
    ------
    ModelFileError, RunError, SceneError
        It is damaged, or none of the three.
    """
    from spectraldiff_runtime.geo.vector_source import is_raster
    from spectraldiff_runtime.products.recognise import recognise

    path = Path(file)
    if path.is_dir() and ((path / "run.json").is_file() or (path / "model.json").is_file()):
        return describe_run(path)
    head = _first_bytes(path)
    if path.suffix.lower() == ".onnx" or head.startswith(b"\x72"):
        return describe_onnx(path)
    product = recognise(file)
    if product is not None:
        return describe_product(file, product)
    if path.is_dir() and not is_raster(path):  # a Zarr store is a folder, too
        return describe_run(path)
    if head.startswith(b"PK\x03\x04") and (path.suffix.lower() == ".pt" or _card_member(path)):
        return describe_torchscript(path)
    if path.suffix.lower() == ".pt" and path.exists():
        raise ModelFileError(f"'{path}' is no TorchScript file (no zip archive): export it again")
    return describe_raster(file)


def _first_bytes(path: Path) -> bytes:
    """Return how a file begins; nothing of what is no file, since opening a pipe would wait for its writer."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(8)
    except (OSError, ValueError):
        return b""


def describe_onnx(path: Path) -> dict[str, Any]:
    """Return the facts of a model file, sealed or saved again by another tool."""
    from spectraldiff_runtime.model.model_file import is_sealed, parse_card, read_model_bytes

    data = read_model_bytes(path, unsealed=True)
    card = parse_card(data, path)
    facts = {"kind": "model", "file": str(path), "format": "ONNX", "sealed": is_sealed(data)}
    return {**facts, **_model_facts(path, card)}


def describe_torchscript(path: Path) -> dict[str, Any]:
    """Return the facts of a TorchScript file; its card is read without PyTorch."""
    from spectraldiff_runtime.model.card import ModelCard

    try:
        with zipfile.ZipFile(path) as archive:
            member = _card_member(path)
            if not member or archive.getinfo(member).file_size > CARD_BYTES:
                raise ModelFileError(
                    f"'{path}' is an archive without a model card: wanted a file that `sdiff export` wrote"
                )
            text = archive.read(member).decode()
    except DAMAGED as error:
        raise ModelFileError(f"'{path}' is damaged or cut short ({error}): copy or export it again") from error
    card = ModelCard.from_json(text, f"'{path}'")
    return {"kind": "model", "file": str(path), "format": "TorchScript", **_model_facts(path, card)}


def _card_member(path: Path) -> str:
    """Return the name of the card in a TorchScript archive; empty if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return next((name for name in archive.namelist() if name.endswith(CARD_MEMBER)), "")
    except DAMAGED as error:
        raise ModelFileError(f"'{path}' is damaged or cut short ({error}): copy or export it again") from error


def _model_facts(path: Path, card: "ModelCard") -> dict[str, Any]:
    waves = card.wavelengths
    return {
        "bytes": path.stat().st_size,
        "scene": card.name,
        "scenes": None if card.scenes is None else list(card.scenes),
        "preset": card.preset,
        "features": card.features,
        "sensor": card.sensor,
        "bands": card.bands,
        "wavelengths_nm": None if waves is None else [min(waves), max(waves)],
        "centres_nm": None if waves is None else list(waves),
        "fwhm_nm": None if card.fwhm is None else [min(card.fwhm), max(card.fwhm)],
        "widths_nm": None if card.fwhm is None else list(card.fwhm),
        "band_names": None if card.band_names is None else list(card.band_names),
        "band_numbers": None if card.band_numbers is None else ranges(card.band_numbers),
        "file_bands": card.file_bands,
        "halo": card.halo,
        "nodata": card.nodata,
        "scaled": card.scaled,
        "units": units_of(card),
        "stored": card.stored,
        "scales": None if card.scales is None else list(card.scales),
        "offsets": None if card.offsets is None else list(card.offsets),
        "bounds": None if card.bounds is None else list(card.bounds),
        "pixel_size_m": None if card.pixel_size is None else list(card.pixel_size),
        "acquired": card.acquired,
        "created": card.created,
        "accuracy": card.accuracy,
        "compact": None if card.compact is None else dict(card.compact),
        "attribution": card.attribution,
        "licence": card.licence,
        "versions": card.versions,
        "classes": [{"value": c.value, "name": c.name, "colour": list(c.colour)} for c in card.classes],
    }


def units_of(card: "ModelCard") -> str:
    """Say what values a model takes."""
    what = card.units or "values"
    return f"{what}, by each scene's scale and offset" if card.scaled else f"{what} as the file stores them"


def describe_product(file: str, product: "Product") -> dict[str, Any]:
    """Return the facts of a product as delivered."""
    import numpy as np

    with product.open() as scene:
        grid = getattr(scene, "grid", None)
        place = scene.georeference if grid is None else grid.place
        bad = dict(scene.bad_bands)
        return {
            "kind": "product",
            "file": file,
            "image": product.image,
            "sensor": product.sensor,
            "level": product.level,
            "date": product.date,
            "values": product.quantity,
            "height": scene.height,
            "width": scene.width,
            "bands": scene.count,
            "bands_in_use": len(scene.bands),
            "type": str(scene.dtype),
            "blocks": list(scene.blocks),
            "crs": None if place.crs is None else place.crs.to_string(),
            "transform": None if place.transform is None else list(place.transform)[:6],
            "map_size": None if grid is None else f"{grid.height} x {grid.width}, gathered from sensor geometry",
            "nodata": _common(scene.nodata) if isinstance(scene.nodata, tuple) else scene.nodata,
            "wavelengths_nm": _range(scene.wavelengths),
            "fwhm_nm": _range(scene.fwhm),
            "bad_bands": sorted(bad),
            "bad_bands_nm": [None if np.isnan(bad[band]) else round(bad[band], 2) for band in sorted(bad)],
            "note": scene.note,
            "clouds_percent": product.clouds,
            "cloudy_pixels": None if scene.clouds is None else scene.clouds.pixels,
            "warnings": list(scene.warnings),
        }


def describe_raster(file: str) -> dict[str, Any]:
    """Return the facts of a raster."""
    from spectraldiff_runtime.geotiff.class_raster import read_classes
    from spectraldiff_runtime.products.recognise import without_metadata
    from spectraldiff_runtime.scene.open import open_dataset

    with open_dataset(file) as dataset:
        interleave = dataset.profile.get("interleave")
        facts = {
            "kind": "raster",
            "file": file,
            "format": dataset.driver,
            "height": dataset.height,
            "width": dataset.width,
            "bands": dataset.count,
            "type": ", ".join(sorted(set(dataset.dtypes))),
            "interleave": interleave,
            "blocks": list(dataset.block_shapes[0]),
            "crs": None if dataset.crs is None else dataset.crs.to_string(),
            "transform": None if dataset.transform.is_identity else list(dataset.transform)[:6],
            **_place_facts(dataset),
            **_band_facts(dataset),
            "warnings": list(without_metadata(file)),
        }
    classes = read_classes(Path(file)) if facts["bands"] == 1 else []
    listed = [{"value": c.value, "name": c.name, "colour": list(c.colour)} for c in classes]
    return {**facts, "classes": listed} if listed else facts


def _place_facts(dataset: Any) -> dict[str, Any]:
    """Return what a raster says of its place in another way than by a transform."""
    from spectraldiff_runtime.geo.georeference import read_rpcs

    points, crs = dataset.gcps
    return {
        "ground_control_points": len(points) or None,
        "ground_control_points_crs": crs.to_string() if points and crs else None,
        "rpcs": True if read_rpcs(dataset) is not None else None,
    }


def _band_facts(dataset: Any) -> dict[str, Any]:
    """Return what a raster says of its bands; one value where all bands have the same, else a list."""
    from spectraldiff_runtime.scene.band_metadata import (
        alpha_bands,
        mask_bands,
        read_bad_bands,
        read_fwhm,
        read_scaling,
        read_wavelengths,
    )

    try:
        bad, wrong = list(read_bad_bands(dataset)), None
    except ValueError as error:
        bad, wrong = [], str(error)
    scales, offsets = read_scaling(dataset)
    alpha = list(alpha_bands(dataset))
    return {
        "nodata": _common(dataset.nodatavals),
        "mask": "alpha band" if alpha else "mask band" if mask_bands(dataset) else None,
        "alpha_bands": alpha,
        "wavelengths_nm": _range(read_wavelengths(dataset)),
        "fwhm_nm": _range(read_fwhm(dataset)),
        "bad_bands": bad,
        "bad_bands_error": wrong,
        "scale": None if (scales == 1).all() else _common(scales.tolist()),
        "offset": None if (offsets == 0).all() else _common(offsets.tolist()),
    }


def _common(values: Sequence[float | None]) -> Any:
    """Return the one value that all bands share, or the list of all."""
    different = {"nan" if value != value else value for value in values}
    return values[0] if len(different) == 1 else list(values)


def _range(values: Any) -> list[float] | None:
    """Return least and largest of (B,) values, without those of alpha bands."""
    import numpy as np

    return None if values is None else [float(np.nanmin(values)), float(np.nanmax(values))]


def describe_run(folder: Path) -> dict[str, Any]:
    """Return the facts of a run folder from its JSON files; of an unfinished one, what was asked for.

    Raises
    ------
    RunError
        The folder is none, or damaged.
    """
    if not (folder / "model.json").is_file():
        return _unfinished(folder)
    model, metrics = _read_json(folder / "model.json"), {}
    if (folder / "metrics.json").is_file():
        metrics = _read_json(folder / "metrics.json")
    damage = _damage(folder / TENSORS, model.get("sha256"))
    return {"kind": "run", "folder": str(folder), "damaged": damage, "model": model, "metrics": metrics}


def _damage(tensors: Path, sha256: object) -> str | None:
    """Say in one line what is wrong with a run's tensors; None for nothing, or where their SHA-256 is not known."""
    if sha256 is None:
        return None
    _check_plain(tensors)
    try:
        check_tensors(tensors)
        with tensors.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return f"{tensors.name} is missing: train again, or restore it"
    except (OSError, ValueError) as error:
        return f"{tensors.name} cannot be read ({getattr(error, 'strerror', error)}): train again, or restore it"
    return None if whole else f"{tensors.name} is not what the training wrote (its SHA-256): train again, or restore it"


def _unfinished(folder: Path) -> dict[str, Any]:
    """Return what is known of a run that was begun and has no model yet."""
    if not (folder / "run.json").is_file():
        found = "neither model.json nor run.json"
        raise RunError(f"'{folder}' is no run folder (it has {found}): wanted one that `sdiff train` wrote")
    asked = _read_json(folder / "run.json")
    preset = asked.get("preset")
    return {
        "kind": "unfinished run",
        "folder": str(folder),
        "go_on_with": resume_command(folder),
        "state_saved": (folder / "state.safetensors").is_file(),
        "asked_for": {
            **{k: v for k, v in asked.items() if k != "data"},
            "preset": preset.get("name") if isinstance(preset, dict) else preset,
        },
    }


def _check_plain(path: Path) -> None:
    from spectraldiff_runtime.gdal import check_plain

    check_plain(path)


def _read_json(path: Path) -> dict[str, Any]:
    _check_plain(path)
    try:
        content = read_run_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"'{path}' cannot be read ({error}): the run folder is damaged; train again") from error
    if not isinstance(content, dict):
        raise RunError(f"'{path}' is damaged (no JSON object): train again")
    return content
