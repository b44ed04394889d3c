"""A tiny benchmark scene, and who publishes it."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from spectraldiff.datasets import loaders, registry
from spectraldiff.datasets.download import DataFile
from spectraldiff.datasets.loaders import DatasetInfo
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import DatasetError

CUBE = np.random.default_rng(0).integers(0, 4000, (6, 5, 3)).astype(np.uint16)
LABELS = np.random.default_rng(1).integers(0, 3, (6, 5)).astype(np.uint8)
CLASSES = (LandCoverClass(1, "Grass", (0, 200, 0)), LandCoverClass(2, "Water", (0, 0, 200)))


def mat(**variables: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Publisher:
    """A server on localhost: `files` by path; `cut` names paths whose transfer breaks off in the middle."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


def register(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, mirrors: tuple[str, ...] = (), **bytes_of: bytes
) -> DatasetInfo:
    """Register the scene `tiny` with two .mat files, and publish them."""
    contents = {
        "tiny.mat": bytes_of.get("cube", mat(tiny=CUBE)), "tiny_gt.mat": bytes_of.get("labels", mat(gt=LABELS))
    }  # fmt: skip
    keys = {"tiny.mat": "tiny", "tiny_gt.mat": "gt"}
    files = tuple(
        DataFile(name, sha256(data), (*(f"{m}/{name}" for m in mirrors), f"{publisher.address}/{name}"), keys[name])
        for name, data in contents.items()
    )
    publisher.files.update({f"/{name}": data for name, data in contents.items()})
    info = DatasetInfo(
        "tiny", "Tiny", "TINY", 6, 5, 3, CLASSES, int((LABELS > 0).sum()), "none", "Nobody.",
        loaders.load_mat, files,
    )  # fmt: skip
    monkeypatch.setitem(registry.REGISTRY, "tiny", info)
    return info


def failure(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        registry.load("tiny", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}
