"""A model file as a STAC item, made of its card alone: core 1.1 with extensions for models, files, classes and bands.

https://github.com/stac-extensions/mlm (1.5), https://github.com/stac-extensions/file (2.1),
https://github.com/stac-extensions/classification (2.0), https://github.com/stac-extensions/eo (2.0, wavelengths) and
https://github.com/stac-extensions/raster (2.0, scale and offset).
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spectraldiff_runtime.classes import HIGHEST_UINT8
from spectraldiff_runtime.model.card import ModelCard

STAC = "1.1.0"
EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.5.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
)
ONNX_MEDIA = "application/octet-stream; framework=onnx; profile=onnx"
TASK = "semantic-segmentation"
OTHER = "other"  # what STAC calls a licence without an SPDX identifier
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
SHA256_MULTIHASH = "1220"  # what begins a multihash of SHA-256


def stac_item(card: ModelCard, path: Path) -> dict[str, Any]:
    """Return a STAC item of a model file, as plain values for JSON.

    Parameters
    ----------
    path
        The file; the item names it relative to itself, with its size and its SHA-256.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    west, south, east, north = card.bounds or (None,) * 4
    box = None if west is None else [west, south, east, north]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": STAC,
        "stac_extensions": list(EXTENSIONS),
        "id": _identifier(f"{card.name}-{card.preset}-{path.stem}"),
        "geometry": None if box is None else {"type": "Polygon", "coordinates": [ring]},
        **({} if box is None else {"bbox": box}),
        "properties": _properties(card),
        "links": [],
        "assets": {"model": _asset(card, path)},
    }


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "model"


def _properties(card: ModelCard) -> dict[str, Any]:
    license_ = card.licence if SPDX.fullmatch(card.licence) else OTHER
    found = {
        "datetime": _moment(card.acquired) or _moment(card.created),
        "created": _moment(card.created),
        "title": f"Land cover of {card.name}",
        "description": f"Maps {len(card.classes)} classes of land cover from {card.bands} bands"
        + (f" of {card.sensor}." if card.sensor else "."),
        "license": license_,
        **({"providers": [{"name": card.attribution, "roles": ["licensor"]}]} if card.attribution else {}),
        **({"gsd": max(card.pixel_size)} if card.pixel_size else {}),
        **({"instruments": [card.sensor]} if card.sensor else {}),
        "mlm:name": card.name,
        "mlm:architecture": "SpectralDiff" if card.features == "diffusion" else "ensemble on spectra",
        "mlm:tasks": [TASK],
        "mlm:framework": "ONNX",
        "mlm:framework_version": card.versions.get("onnx"),
        "mlm:accelerator": None,
        "mlm:accelerator_constrained": False,
        "mlm:pretrained": True,
        "mlm:pretrained_source": card.name,
        "mlm:input": [_input(card)],
        "mlm:output": [_output(card)],
        "mlm:hyperparameters": {"halo": card.halo, "preset": card.preset},
    }
    return {key: value for key, value in found.items() if key in ("datetime", "mlm:accelerator") or value is not None}


def _moment(text: str) -> str | None:
    """Return a time as RFC 3339 has it, UTC where the text names no zone; None where it is no time."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat().replace("+00:00", "Z")


def band_names(card: ModelCard) -> Sequence[str]:
    """Return a name for each band: that of the file, else its wavelength, else its number; no two are the same."""
    names = []
    for index in range(card.bands):
        number = index + 1 if card.band_numbers is None else card.band_numbers[index]
        wave = "" if card.wavelengths is None else f"{card.wavelengths[index]:g} nm"
        names.append((card.band_names[index] if card.band_names else "") or wave or f"band {number}")
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, start=1)]


def _band(card: ModelCard, index: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": band_names(card)[index]}
    if card.wavelengths is not None:
        facts["eo:center_wavelength"] = card.wavelengths[index] / 1000  # micrometres
    if card.fwhm is not None:
        facts["eo:full_width_half_max"] = card.fwhm[index] / 1000
    if card.units:
        facts["description"] = card.units
    if card.stored:
        facts["data_type"] = card.stored
    if card.nodata is not None:
        facts["nodata"] = card.nodata
    if card.scales is not None and not card.scaled:
        facts["raster:scale"] = card.scales[index]
    if card.offsets is not None and not card.scaled:
        facts["raster:offset"] = card.offsets[index]
    return facts


def _input(card: ModelCard) -> dict[str, Any]:
    return {
        "name": "tile",
        "bands": list(band_names(card)),
        "input": {
            "shape": [-1, card.bands, -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": f"Values as {card.stored or 'the file'} holds them, with {card.halo} pixels around the part "
        "that is wanted" + (", by each scene's scale and offset." if card.scaled else "; the graph scales them."),
        "value_scaling": None,
        "resize_type": None,
        "pre_processing_function": None,
    }


def _output(card: ModelCard) -> dict[str, Any]:
    kind = "uint8" if len(card.classes) <= HIGHEST_UINT8 else "int32"
    return {
        "name": "classes",
        "tasks": [TASK],
        "result": {"shape": [-1, -1, -1], "dim_order": ["batch", "height", "width"], "data_type": kind},
        "description": f"Classes 1 to {len(card.classes)}, {2 * card.halo} rows and columns fewer than the tile.",
        "classification:classes": [
            {
                "value": c.value,
                "name": _identifier(c.name) if re.search(r"[A-Za-z0-9]", c.name) else f"class-{c.value}",
                "description": c.name,
                "color_hint": "{:02X}{:02X}{:02X}".format(*c.colour),
            }
            for c in card.classes
        ],
        "post_processing_function": None,
    }


def _asset(card: ModelCard, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "href": f"./{path.name}",
        "type": ONNX_MEDIA,
        "title": f"{card.name}, {card.precision}",
        "roles": ["mlm:model", "data"],
        "bands": [_band(card, index) for index in range(card.bands)],
        "mlm:artifact_type": "onnx",
        "file:size": path.stat().st_size,
        "file:checksum": SHA256_MULTIHASH + digest,
    }
