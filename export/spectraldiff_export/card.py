"""The model card inside the file: what whoever runs it needs to know, and where it came from."""

import math
from collections.abc import Mapping
from typing import Any

import onnx
import onnxruntime
import torch

import spectraldiff_runtime
from spectraldiff.models.classifier import Classifier
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import ModelFileError, RunError
from spectraldiff_runtime.model.card import ModelCard


def card_of(classifier: Classifier, facts: Mapping[str, Any]) -> ModelCard:
    """Return the card of a trained model.

    Parameters
    ----------
    classifier
        The model.
    facts
        What the run's model.json says of scene, classes and accuracy.

    Raises
    ------
    RunError
        A fact is missing or not as it should be.
    """
    try:
        card = _card(classifier, facts)
        return ModelCard.from_json(card.to_json(), "the run")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"the run's model.json is damaged ({error!r}): train again, or restore it") from error
    except ModelFileError as error:
        raise RunError(f"the run's model.json is damaged: {error}") from error


def _card(classifier: Classifier, facts: Mapping[str, Any]) -> ModelCard:
    nodata = facts["nodata"]
    return ModelCard(
        name=facts["name"],
        preset=classifier.preset.name,
        features=classifier.preset.features.source,
        classes=tuple(LandCoverClass(c["value"], c["name"], tuple(c["colour"])) for c in facts["classes"]),
        bands=len(classifier.fill),
        wavelengths=_tuple(facts["wavelengths"]),
        halo=classifier.halo,
        nodata=nodata if nodata is not None and math.isfinite(nodata) else None,
        fill=tuple(classifier.fill.tolist()),
        sensor=facts["sensor"],
        attribution=facts["attribution"],
        accuracy=facts["accuracy"],
        scaled=facts.get("scaled", False),
        units=facts.get("units", ""),
        band_numbers=_tuple(facts.get("band_numbers")),
        file_bands=facts.get("file_bands"),
        fwhm=_tuple(facts.get("fwhm")),
        bounds=_tuple(facts.get("bounds")),
        pixel_size=_tuple(facts.get("pixel_size")),
        acquired=facts.get("acquired", ""),
        created=facts.get("finished", ""),
        band_names=_tuple(facts.get("band_names")),
        stored=facts.get("stored", ""),
        scenes=_tuple(facts.get("scenes")),
        scales=_tuple(facts.get("scales")),
        offsets=_tuple(facts.get("offsets")),
        versions={**facts["versions"], **_versions()},
    )


def _tuple(values: Any) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _versions() -> dict[str, str]:
    """Return the versions of what makes and checks the file."""
    return {
        "spectraldiff": spectraldiff_runtime.__version__,
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
