"""The bytes of a model file: seal, metadata and card, read before any ONNX library sees them."""

import hashlib
import re
from pathlib import Path

from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.messages import sdiff
from spectraldiff_runtime.model.card import ModelCard as ModelCard

CARD_KEY = "spectraldiff.card"
SIZE_KEY = "spectraldiff.size"
SEAL_KEY = "spectraldiff.sha256"
SIZE_DIGITS = 20
METADATA_TAG = 0x72  # ModelProto.metadata_props: field 14, length-delimited


def _metadata(key: str, value: str) -> bytes:
    """Return one metadata entry as a protobuf fragment (lengths under 128 only)."""
    entry = b"".join(bytes([tag, len(text)]) + text.encode() for tag, text in ((0x0A, key), (0x12, value)))
    return bytes([METADATA_TAG, len(entry)]) + entry


_HEAD_SIZE = len(_metadata(SIZE_KEY, "0" * SIZE_DIGITS))
_TRAILER_SIZE = len(_metadata(SEAL_KEY, "0" * 64))


def seal(payload: bytes) -> bytes:
    """Return an ONNX file's bytes with our head and trailer around them.

    Parameters
    ----------
    payload
        A serialised ONNX model whose metadata holds the card under `CARD_KEY`.

    Returns
    -------
    bytes
        A valid ONNX file that `unseal` accepts.
    """
    size = _HEAD_SIZE + len(payload) + _TRAILER_SIZE
    body = _metadata(SIZE_KEY, f"{size:0{SIZE_DIGITS}d}") + payload
    return body + _metadata(SEAL_KEY, hashlib.sha256(body).hexdigest())


def unseal(data: bytes, name: str = "the model file") -> None:
    """Check that `data` is exactly what `seal` returned.

    Raises
    ------
    ModelFileError
        The bytes are not ours, are cut short, or were changed.
    """
    head = _metadata(SIZE_KEY, "0" * SIZE_DIGITS)[:-SIZE_DIGITS]
    if len(data) < len(head) or not data.startswith(head):
        raise ModelFileError(_describe_foreign(data, name))
    digits = data[len(head) : _HEAD_SIZE]
    if len(digits) == SIZE_DIGITS and not digits.isdigit():
        raise ModelFileError(_changed(name))
    if len(digits) < SIZE_DIGITS or len(data) < int(digits):
        wanted = f"{int(digits):,}" if len(digits) == SIZE_DIGITS else "more"
        raise ModelFileError(
            f"{name} is cut short: it has {len(data):,} bytes and should have {wanted}; copy or export it again"
        )
    trailer = _metadata(SEAL_KEY, hashlib.sha256(data[:-_TRAILER_SIZE]).hexdigest())
    if len(data) != int(digits) or data[-_TRAILER_SIZE:] != trailer:
        raise ModelFileError(_changed(name))


def _changed(name: str) -> str:
    return f"{name} was changed after it was exported (its checksum does not match): copy or export it again"


def _describe_foreign(data: bytes, name: str) -> str:
    """Say what a file is that does not begin like ours."""
    wanted = "wanted a file that `sdiff export --out model.onnx` wrote"
    if not data:
        return f"{name} is empty: {wanted}"
    if data.startswith(b"PK\x03\x04") and b"constants.pkl" in data:
        return f"{name} is a TorchScript file, which needs PyTorch to run: {wanted}"
    if re.match(rb"\x08[\x03-\x20]", data):  # ir_version comes first in ONNX files
        return f"{name} is an ONNX file that SpectralDiff did not write: {wanted}"
    return f"{name} is not a SpectralDiff model file: {wanted}"


def read_model_bytes(path: str | Path) -> bytes:
    """Read a model file and check its seal.

    Raises
    ------
    ModelFileError
        The file is missing or unreadable, not ours, cut short or changed.
    """
    target = Path(path)
    if target.is_dir():
        raise ModelFileError(f"'{path}' is a folder: wanted a model file such as model.onnx")
    try:
        if target.exists() and not target.is_file():  # a pipe would be waited for
            raise ModelFileError(f"'{path}' is no plain file: wanted a model file such as model.onnx")
        data = target.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(
            f"there is no model file '{path}': export one with `{sdiff('export', '--out', target.name)}` "
            "or name one with --model"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"'{path}' cannot be read ({reason}): wanted a model file") from error
    unseal(data, f"'{path}'")
    return data


def read_card(path: str | Path) -> ModelCard:
    """Return the card of a model file without starting ONNX Runtime.

    Raises
    ------
    ModelFileError
        The file or its card is not as it should be.
    """
    return parse_card(read_model_bytes(path), path)


def parse_card(data: bytes, path: str | Path) -> ModelCard:
    try:
        text = read_metadata(data).get(CARD_KEY)
    except (KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ModelFileError(
            f"'{path}' is not a SpectralDiff model file: it holds no ONNX model ({error}): export it again"
        ) from error
    if text is None:
        raise ModelFileError(f"'{path}' has no model card inside: export it again")
    return ModelCard.from_json(text, f"'{path}'")


def read_metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file from its top-level protobuf fields."""
    entries = (_fields(value) for field, value in _fields(data) if field == METADATA_TAG >> 3)
    pairs = (dict(entry) for entry in entries)
    return {bytes(p.get(1, b"")).decode(): bytes(p.get(2, b"")).decode() for p in pairs}


def _fields(data: bytes | memoryview) -> list[tuple[int, memoryview]]:
    """Return (number, content) of the length-delimited fields of a protobuf message; others are skipped."""
    view, at, out = memoryview(data), 0, []
    while at < len(view):
        tag, at = _varint(view, at)
        kind = tag & 7
        size, start = _varint(view, at) if kind in (0, 2) else ({1: 8, 5: 4}[kind], at)
        at = start if kind == 0 else start + size
        if at > len(view):
            raise ValueError("a field runs past the end")
        if kind == 2:
            out.append((tag >> 3, view[start:at]))
    return out


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
