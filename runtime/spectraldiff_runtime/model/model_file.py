"""The bytes of a model file: seal, metadata and card, read before any ONNX library sees them."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.limits import CARD_BYTES, MODEL_BYTES
from spectraldiff_runtime.messages import sdiff
from spectraldiff_runtime.model.card import ModelCard as ModelCard

CARD_KEY = "spectraldiff.card"
SIZE_KEY = "spectraldiff.size"
SEAL_KEY = "spectraldiff.sha256"
SIZE_DIGITS = 20
VARINT_BYTES = 10
MOST_FIELDS = 100_000  # of one message; the largest of ours are graphs of some hundred nodes
ONNX = re.compile(rb"\x08[\x03-\x20]")  # ir_version comes first in ONNX files
METADATA_TAG = 0x72  # ModelProto.metadata_props: field 14, length-delimited


def _metadata(key: str, value: str) -> bytes:
    """Return one metadata entry as a protobuf fragment (lengths under 128 only)."""
    entry = b"".join(bytes([tag, len(text)]) + text.encode() for tag, text in ((0x0A, key), (0x12, value)))
    return bytes([METADATA_TAG, len(entry)]) + entry


_START = _metadata(SIZE_KEY, "0" * SIZE_DIGITS)[:-SIZE_DIGITS]
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
    check_head(data[:_HEAD_SIZE], len(data), name)
    trailer = _metadata(SEAL_KEY, hashlib.sha256(data[:-_TRAILER_SIZE]).hexdigest())
    if data[-_TRAILER_SIZE:] != trailer:
        raise ModelFileError(_changed(name))


def check_head(head: bytes, size: int, name: str) -> None:
    """Check the first bytes of a file of `size` bytes: that they are ours, and name this size.

    Raises
    ------
    ModelFileError
        They are not ours, or the file is cut short, has more bytes than it names, or more than are read.
    """
    if not is_sealed(head):
        raise ModelFileError(_describe_foreign(head, name))
    digits = head[len(_START) : _HEAD_SIZE]
    if len(digits) == SIZE_DIGITS and not digits.isdigit():
        raise ModelFileError(_changed(name))
    if len(digits) < SIZE_DIGITS or size < int(digits):
        wanted = f"{int(digits):,}" if len(digits) == SIZE_DIGITS else "more"
        raise ModelFileError(
            f"{name} is cut short: it has {size:,} bytes and should have {wanted}; copy or export it again"
        )
    if size != int(digits):
        raise ModelFileError(_changed(name))
    if size > MODEL_BYTES:
        raise ModelFileError(f"{name} has {size:,} bytes: wanted a model file of at most {MODEL_BYTES:,}")


def _changed(name: str) -> str:
    return f"{name} was changed after it was exported (its checksum does not match): copy or export it again"


def _describe_foreign(head: bytes, name: str) -> str:
    """Say what a file is that does not begin like ours, from its first bytes."""
    wanted = "wanted a file that `sdiff export --out model.onnx` wrote"
    if not head:
        return f"{name} is empty: {wanted}"
    if head.startswith(b"PK\x03\x04"):
        return f"{name} is a zip archive, perhaps a TorchScript file, which needs PyTorch to run: {wanted}"
    if ONNX.match(head):
        return f"{name} is an ONNX file that SpectralDiff did not write: {wanted}"
    return f"{name} is not a SpectralDiff model file: {wanted}"


def is_sealed(data: bytes) -> bool:
    """Whether a file begins as `seal` has it begin; one that another tool has saved does not."""
    return data.startswith(_START)


def read_model_bytes(path: str | Path, unsealed: bool = False) -> bytes:
    """Read a model file and check its seal.

    Parameters
    ----------
    unsealed
        Whether a file of ours that another tool has saved again is read too. It has no seal, so nothing says whether
        it is whole and what the exporter wrote.

    Raises
    ------
    ModelFileError
        The file is missing or unreadable, not ours, cut short or changed.
    """
    target, name = Path(path), f"'{path}'"
    try:
        if target.is_dir():
            raise ModelFileError(f"{name} is a folder: wanted a model file such as model.onnx")
        with open(target, "rb", opener=_without_waiting) as file:
            data = _read(file, name, unsealed)
    except FileNotFoundError:
        raise ModelFileError(
            f"there is no model file {name}: export one with `{sdiff('export', '--out', target.name)}` "
            "or name one with --model"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"{name} cannot be read ({reason}): wanted a model file") from error
    if is_sealed(data):
        unseal(data, name)
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe, do not wait for whoever writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: BinaryIO, name: str, unsealed: bool) -> bytes:
    """Read an open file whole, once its first bytes and its size are as they should be."""
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode):
        raise ModelFileError(f"{name} is no plain file: wanted a model file such as model.onnx")
    head = file.read(_HEAD_SIZE)
    if not is_sealed(head) and ONNX.match(head) and 0 < facts.st_size <= MODEL_BYTES:
        data = head + file.read(facts.st_size - len(head))
        if _has_card(data):
            if unsealed:
                return data
            raise ModelFileError(
                f"{name} holds a model card and is no longer sealed: another tool has saved it again, and nothing says "
                "whether it still is what `sdiff export` wrote; take the exported file, or this one with --unsealed"
            )
    check_head(head, facts.st_size, name)
    return head + file.read(facts.st_size - len(head))


def _has_card(data: bytes) -> bool:
    try:
        return CARD_KEY in read_metadata(data)
    except (KeyError, IndexError, UnicodeDecodeError, ValueError):
        return False


def read_card(path: str | Path, unsealed: bool = False) -> ModelCard:
    """Return the card of a model file without starting ONNX Runtime; `unsealed` as in `read_model_bytes`.

    Raises
    ------
    ModelFileError
        The file or its card is not as it should be.
    """
    return parse_card(read_model_bytes(path, unsealed), path)


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
    """Return the metadata of an ONNX file from its top-level protobuf fields.

    Raises
    ------
    ValueError, KeyError, IndexError
        The bytes are no protobuf message, or its metadata are no text, or too much of it.
    """
    entries = [value for number, value in fields(data) if number == METADATA_TAG >> 3]
    if sum(map(len, entries)) > CARD_BYTES:
        raise ValueError(f"more than {CARD_BYTES:,} bytes of metadata")
    pairs = (dict(fields(entry)) for entry in entries)
    return {bytes(p.get(1, b"")).decode(): bytes(p.get(2, b"")).decode() for p in pairs}


def fields(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (number, content) of the length-delimited fields of a protobuf message; others are skipped.

    Raises
    ------
    ValueError, KeyError, IndexError
        The bytes are no protobuf message, or one of more fields than any model has.
    """
    view, at = memoryview(data), 0
    for _ in range(MOST_FIELDS):
        if at >= len(view):
            return
        tag, at = _varint(view, at)
        kind = tag & 7
        size, start = _varint(view, at) if kind in (0, 2) else ({1: 8, 5: 4}[kind], at)
        at = start if kind == 0 else start + size
        if at > len(view):
            raise ValueError("a field runs past the end")
        if kind == 2:
            yield tag >> 3, view[start:at]
    if at < len(view):
        raise ValueError(f"a message of more than {MOST_FIELDS:,} fields")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Return a number of 64 bits at most, as protobuf has them, and where the next field begins."""
    value = 0
    for place, byte in enumerate(view[at : at + VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number does not end")
