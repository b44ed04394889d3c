"""The model card: the description of a model, JSON in the file's metadata."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spectraldiff_runtime.classes import HIGHEST, LandCoverClass, clean_name
from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.limits import BANDS, CARD_BYTES, HALO, NAME, TEXT
from spectraldiff_runtime.untrusted import parse_json

FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST = 3.4e38  # float32
FIGURES = ("oa", "aa", "kappa")
# Bytes of working memory for each band and padded pixel where a card has no figure; measured ones lie below.
WORKSPACE_PER_BAND = 400


@dataclass(frozen=True)
class ModelCard:
    """Description of a model, stored in its file.

    Attributes
    ----------
    name, preset, features
        The training scene, the preset, and ``"diffusion"`` or ``"raw"``.
    classes
        In order of value, 1..K.
    bands, wavelengths
        Number of bands B, and their centres in nm where they are known.
    halo
        Pixels around an output pixel that it depends on.
    nodata
        The training scene's value for missing pixels, for information.
    fill
        B raw values that replace missing pixels inside windows: the training scene's mean spectrum.
    accuracy
        split, seed, train_pixels, test_pixels, oa, aa, kappa (fractions); None if never measured.
    versions
        Versions of the packages that made the file.
    band_numbers, file_bands
        Numbers of the bands in the training scene's file, from 1, and how many that file has; None where not known.
    fwhm
        Full widths at half maximum of the bands, nm, where they are known.
    scaled
        Whether the model takes stored value x scale + offset, by each scene's own scale and offset.
    units
        What the training scene's physical values are, such as ``"surface reflectance"``; empty where not known.
    workspace
        Bytes of working memory for each pixel of a padded tile, as measured; None if never measured.
    precision
        What most of the model is computed in: ``"fp32"``, ``"fp16"`` or ``"int8"``.
    agreement
        How a model of lower precision compares with the same in fp32: pixels, equal_classes (share), confidence (mean
        absolute difference), test_pixels, oa and oa_fp32 (fractions); None for fp32.
    bounds
        West, south, east and north of the training scenes in degrees (WGS 84); None where they are not known.
    pixel_size
        Width and height of a pixel of the training scene in metres; None where they are not known.
    acquired, created
        When the training scene was taken and when the model was trained, as ISO 8601; empty where not known.
    licence
        Under what the file may be used: an SPDX identifier or a text; empty where nobody said.
    band_names
        The bands' names in the training scene's file; None where it has none.
    stored
        The type of the training scene's values, such as ``"uint16"``; empty where not known.
    scenes
        Names of the training scenes where there are several; else None.
    scales, offsets
        Of the bands of the training scene: stored value x scale + offset is in `units`; None where the file has none.
        With `scaled`, the values of `stored` are the results.
    compact
        Of a compact model: the scenes that it was taught on, each with name and mark, and how it compares with its
        full model on ground that was held out and on ground that was shown; None for a full model.
    """

    name: str
    preset: str
    features: str
    classes: tuple[LandCoverClass, ...]
    bands: int
    wavelengths: tuple[float, ...] | None
    halo: int
    nodata: float | None
    fill: tuple[float, ...]
    sensor: str = ""
    attribution: str = ""
    accuracy: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    scaled: bool = False
    units: str = ""
    band_numbers: tuple[int, ...] | None = None
    file_bands: int | None = None
    fwhm: tuple[float, ...] | None = None
    workspace: float | None = None
    precision: str = "fp32"
    agreement: Mapping[str, Any] | None = None
    bounds: tuple[float, ...] | None = None
    pixel_size: tuple[float, ...] | None = None
    acquired: str = ""
    created: str = ""
    licence: str = ""
    band_names: tuple[str, ...] | None = None
    stored: str = ""
    scenes: tuple[str, ...] | None = None
    scales: tuple[float, ...] | None = None
    offsets: tuple[float, ...] | None = None
    compact: Mapping[str, Any] | None = None
    format: int = FORMAT

    @property
    def workspace_per_pixel(self) -> float:
        """Bytes of working memory for each padded pixel: as measured, or a guess."""
        return self.workspace or WORKSPACE_PER_BAND * self.bands

    def to_json(self) -> str:
        """Return the card as JSON text (no NaN)."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, name: str = "the model file") -> "ModelCard":
        """Read a card and check each value against `_RULES`; control characters in its texts go.

        Raises
        ------
        ModelFileError
            The text is no card, is of a later format, or a value is not as it should be.
        """
        if len(text) > CARD_BYTES:
            raise ModelFileError(
                f"{name} has a card of {len(text):,} characters: wanted {CARD_BYTES:,} at most; export it again"
            )
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise ModelFileError(f"{name} has a card that is no JSON ({error}): export it again") from error
        if not isinstance(raw, dict) or "format" not in raw:
            raise ModelFileError(f"{name} has a card that is no model card: export it again")
        if raw["format"] != FORMAT or isinstance(raw["format"], bool):
            found = str(raw["format"])[:NAME]
            raise ModelFileError(
                f"{name} has a card of format {found}: this version reads format {FORMAT}; "
                "update spectraldiff or export the model again"
            )
        return _checked(raw, name)


def _checked(raw: Mapping[str, Any], name: str) -> ModelCard:
    for key, (wanted, test) in _RULES.items():
        if not test(raw.get(key)):
            raise ModelFileError(f"{name} has a card whose '{key}' is not {wanted}: export the model again")
    bands = raw["bands"]
    listed = ("fill", "wavelengths", "fwhm", "band_numbers", "band_names", "scales", "offsets")
    lengths = {key: len(raw[key]) for key in listed if raw.get(key) is not None}
    for key, length in lengths.items():
        if length != bands:
            raise ModelFileError(
                f"{name} has a card with {bands} bands and {length} values in '{key}': export the model again"
            )
    known = {key: raw[key] for key in ModelCard.__dataclass_fields__ if key in raw}
    known["classes"] = tuple(
        LandCoverClass(c["value"], clean_name(c["name"]), (c["colour"][0], c["colour"][1], c["colour"][2]))
        for c in raw["classes"]
    )
    for key in ("name", "preset", "sensor", "attribution", "acquired", "created", "licence", "stored"):
        known[key] = clean_name(raw.get(key) or "")
    known["versions"] = raw.get("versions") or {}
    known["fill"] = tuple(raw["fill"])
    for key in ("wavelengths", "fwhm", "band_numbers", "bounds", "pixel_size", "scales", "offsets"):
        known[key] = None if raw.get(key) is None else tuple(raw[key])
    for key in ("band_names", "scenes"):
        known[key] = None if raw.get(key) is None else tuple(map(clean_name, raw[key]))
    known["scaled"] = bool(raw.get("scaled"))
    if raw.get("compact") is not None:
        named = [{**one, "name": clean_name(one["name"])} for one in raw["compact"]["scenes"]]
        known["compact"] = {**raw["compact"], "scenes": named}
    known["units"] = raw.get("units") or ""
    known["precision"] = raw.get("precision") or PRECISIONS[0]
    return ModelCard(**{"nodata": None, **known})


def _is_number(value: Any) -> bool:
    """Whether float32 holds it: integers of hundreds of digits are numbers too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # `parse_json` lets no others through


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list) and len(v) <= BANDS and all(map(test, v))


def _is_box(value: Any) -> bool:
    if not _are(_is_number)(value) or len(value) != 4:
        return False
    west, south, east, north = value
    return all(-180 <= x <= 180 for x in (west, east)) and bool(-90 <= south <= north <= 90)


def _is_count(least: int, most: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def _are_classes(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= HIGHEST and all(map(_is_class, value, range(1, HIGHEST + 1)))


def _is_class(value: Any, number: int) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(number, number)(value.get("value"))
        and _is_text(NAME)(value.get("name"))
        and isinstance(value.get("colour"), list)
        and len(value["colour"]) == 3
        and all(map(_is_count(0, 255), value["colour"]))
    )


def _or_none(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or test(v)


def _is_text(most: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, str) and len(v) <= most


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text(NAME), (*value, *value.values())))


def _are_facts(value: Any) -> bool:
    """Whether it is a mapping of names to anything, in which what is shown as a share is a number."""
    shares = (value.get(key) for key in FIGURES) if isinstance(value, dict) else (False,)
    return all(map(_or_none(_is_number), shares))


def _is_agreement(value: Any) -> bool:
    return _are_facts(value) and _or_none(_is_text(NAME))(value.get("processor"))


def _is_compact(value: Any) -> bool:
    """Whether it names the scenes that a compact model was taught on."""
    scenes = value.get("scenes") if isinstance(value, dict) else None
    text = _is_text(NAME)
    return (
        isinstance(scenes, list)
        and len(scenes) >= 1
        and all(isinstance(one, dict) and text(one.get("name")) and text(one.get("mark")) for one in scenes)
    )


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (f"a name of at most {NAME} characters", _is_text(NAME)),
    "preset": (f"a name of at most {NAME} characters", _is_text(NAME)),
    "features": ("'diffusion' or 'raw'", lambda v: v in ("diffusion", "raw")),
    "classes": (f"a list of classes 1 to K (K at most {HIGHEST}) with value, name and colour", _are_classes),
    "bands": (f"a number of bands from 1 to {BANDS}", _is_count(1, BANDS)),
    "wavelengths": ("a list of positive numbers or null", _or_none(_are(_is_positive))),
    "halo": (f"a number of pixels from 0 to {HALO}", _is_count(0, HALO)),
    "nodata": ("a number or null", _or_none(_is_finite)),
    "fill": ("a list of numbers that float32 holds", _are(_is_number)),
    "sensor": (f"text of at most {TEXT} characters", _or_none(_is_text(TEXT))),
    "attribution": (f"text of at most {TEXT} characters", _or_none(_is_text(TEXT))),
    "accuracy": ("a mapping with numbers as oa, aa and kappa, or null", _or_none(_are_facts)),
    "versions": ("a mapping of names to versions", _or_none(_are_versions)),
    "units": (f"text of at most {TEXT} characters", _or_none(_is_text(TEXT))),
    "scaled": ("true or false", lambda v: v is None or isinstance(v, bool)),
    "band_numbers": ("a list of whole numbers from 1 or null", _or_none(_are(_is_count(1, BANDS)))),
    "file_bands": ("a number of bands or null", _or_none(_is_count(1, BANDS))),
    "fwhm": ("a list of numbers from 0 or null", _or_none(_are(lambda v: _is_number(v) and v >= 0))),
    "precision": ("fp32, fp16 or int8", lambda v: v is None or v in PRECISIONS),
    "agreement": ("a mapping with numbers as oa and a name as processor, or null", _or_none(_is_agreement)),
    "compact": ("a mapping whose scenes have names and marks, or null", _or_none(_is_compact)),
    "workspace": ("a positive number or null", _or_none(_is_positive)),
    "bounds": ("west, south, east and north in degrees, or null", _or_none(_is_box)),
    "pixel_size": ("two positive numbers or null", _or_none(lambda v: _are(_is_positive)(v) and len(v) == 2)),
    "acquired": (f"text of at most {NAME} characters", _or_none(_is_text(NAME))),
    "created": (f"text of at most {NAME} characters", _or_none(_is_text(NAME))),
    "licence": (f"text of at most {NAME} characters", _or_none(_is_text(NAME))),
    "band_names": (f"a list of names of at most {NAME} characters or null", _or_none(_are(_is_text(NAME)))),
    "scenes": (f"a list of names of at most {NAME} characters or null", _or_none(_are(_is_text(NAME)))),
    "stored": (f"a name of at most {NAME} characters", _or_none(_is_text(NAME))),
    "scales": ("a list of numbers or null", _or_none(_are(_is_number))),
    "offsets": ("a list of numbers or null", _or_none(_are(_is_number))),
}
