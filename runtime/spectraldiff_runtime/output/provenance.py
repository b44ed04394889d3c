"""Provenance of a map's files: what they were made from, so that a later run can recognise its own."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.formats.polygon_file import read_layer_tags
from spectraldiff_runtime.scene.open import open_dataset
from spectraldiff_runtime.untrusted import parse_json

FINGERPRINT, FACTS = "SPECTRALDIFF_FINGERPRINT", "SPECTRALDIFF_FACTS"
IMAGE_DESCRIPTION = 0x010E  # the tag of Exif that holds a picture's fingerprint
# Facts are kept and shown as JSON of at most so many characters, and as a digest beyond.
LONGEST = 60
DIGEST = "sha256:"
# Where a style holds its fingerprint, and in how many characters from its beginning.
RECORD, LONGEST_HEAD = re.compile(rf"{FINGERPRINT}=([0-9a-f]{{64}})"), 1000
# What messages call the parts of facts.
WORDS = {
    "dtype": "type of values",
    "files": "size, date or bytes of its files",
    "sha256": "polygons",
    "blocksize": "tiles",
}


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a SHA-256 of all that a map depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def record(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return a raster's tags that say what it was made from."""
    return {FINGERPRINT: fingerprint(facts), FACTS: json.dumps(_brief(facts))}


def picture_record(facts: Mapping[str, Any]) -> Image.Exif:
    """Return a picture's metadata that say what it was made from."""
    exif = Image.Exif()
    exif[IMAGE_DESCRIPTION] = fingerprint(facts)
    return exif


def style_record(facts: Mapping[str, Any]) -> str:
    """Return a comment for a style that says what it was made from."""
    return f"{FINGERPRINT}={fingerprint(facts)}"


def difference_of(path: Path, facts: Mapping[str, Any]) -> str | None:
    """Say how a file differs from one made from `facts`, "is a map with another ..."; None if it is such a one."""
    readers = {
        ".png": _picture_tags,
        ".jpg": _picture_tags,
        ".jpeg": _picture_tags,
        ".qml": _style_tags,
        ".gpkg": read_layer_tags,
    }
    tags = readers.get(path.suffix.lower(), _tags)(path)
    if tags.get(FINGERPRINT) == fingerprint(facts):
        return None
    try:
        recorded = parse_json(tags.get(FACTS, ""))
        return f"belongs to a map with {difference(recorded, facts) or 'other options'}"
    except (ValueError, AttributeError):
        return "belongs to another map, or to none of this version's"


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Say in which fact two maps differ first, such as "another model"; None if in none."""
    found, wanted = _brief(found), _brief(wanted)
    for key in [*wanted, *found]:
        values = found.get(key), wanted.get(key)
        if values[0] != values[1]:
            texts = [json.dumps(value, ensure_ascii=False) for value in values]
            long = any(isinstance(value, str) and value.startswith(DIGEST) for value in values)
            return f"another {key}" + ("" if long else f" ({texts[0]}; now {texts[1]})")
    return None


def _brief(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts without mappings in them, and with digests instead of long values."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        inner = value if isinstance(value, Mapping) else {}
        flat |= {f"{key}: other {WORDS.get(name, name)}": item for name, item in inner.items()} or {key: value}
    texts = {key: json.dumps(value, sort_keys=True) for key, value in flat.items()}
    return {
        key: json.loads(text) if len(text) <= LONGEST else DIGEST + hashlib.sha256(text.encode()).hexdigest()[:32]
        for key, text in texts.items()
    }


def _tags(path: Path) -> dict[str, str]:
    try:
        with open_dataset(path) as dataset:
            return {key.removeprefix("NC_GLOBAL#"): value for key, value in dataset.tags().items()}
    except (SceneError, OSError):
        return {}


def _picture_tags(path: Path) -> dict[str, str]:
    try:
        with Image.open(path) as picture:
            found = picture.getexif().get(IMAGE_DESCRIPTION)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return {}
    return _tags(path) if found is None else {FINGERPRINT: str(found)}  # a class map, or a preview


def _style_tags(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = RECORD.search(file.read(LONGEST_HEAD))
    except OSError:
        return {}
    return {} if found is None else {FINGERPRINT: found[1]}
