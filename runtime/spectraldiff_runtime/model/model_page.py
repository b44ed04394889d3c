"""A model card for people and for model hubs: Markdown with front matter, made of the card in the file alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spectraldiff_runtime.messages import ranges
from spectraldiff_runtime.model.card import ModelCard

# Model hubs read these.
PIPELINE, LIBRARY = "image-segmentation", "spectraldiff"
TAGS = ("hyperspectral", "land-cover", "remote-sensing", "onnx")
UNKNOWN = "not known"


def model_page(card: ModelCard, name: str) -> str:
    """Return the page of a model file.

    Parameters
    ----------
    name
        The file's name, for the commands on the page.
    """
    parts = [_front_matter(card), f"# Land cover of {_plain(card.name)}\n", _summary(card)]
    for title, text in (
        ("Data", _data(card)),
        ("Split and leakage", _split(card.accuracy or {})),
        ("Accuracy", _accuracy(card)),
        *([("Compact model", _compact(card, card.compact))] if card.compact else []),
        ("Intended use", _use(card, name)),
        ("Limits", _limits(card)),
        ("Classes", _classes(card)),
        ("Versions", _table(("Package", "Version"), sorted(card.versions.items()))),
    ):
        parts.append(f"## {title}\n\n{text}\n")
    return "\n".join(parts)


def _front_matter(card: ModelCard) -> str:
    """Return what hubs read: YAML, of which JSON is a part."""
    figures = [
        {"type": kind, "value": card.accuracy[key], "name": title}
        for kind, key, title in (
            ("accuracy", "oa", "overall accuracy"),
            ("average_accuracy", "aa", "average accuracy"),
            ("kappa", "kappa", "kappa"),
        )
        if card.accuracy and card.accuracy.get(key) is not None
    ]
    task = {"type": PIPELINE, "name": "land-cover classification"}
    result = {"task": task, "dataset": {"name": card.name, "type": "own"}, "metrics": figures}
    facts: dict[str, Any] = {
        "license": card.licence.lower() or "unknown",
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE,
        "tags": list(TAGS),
    }
    if figures:
        facts["model-index"] = [{"name": card.name, "results": [result]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items()]
    return "\n".join(["---", *lines, "---", ""])


def _plain(text: str) -> str:
    """Return a text of one line in which nothing is markup."""
    kept = "".join(f"\\{c}" if c in "\\`*_{}[]<>|" else c for c in text)
    return " ".join(kept.split())


def _summary(card: ModelCard) -> str:
    how = "features of a diffusion model and " if card.features == "diffusion" else ""
    by = "a small model that was taught by " if card.compact else "by "
    return (
        f"One ONNX file that turns tiles of {card.bands} bands into maps of {len(card.classes)} classes, {by}{how}an "
        f"ensemble of classifiers (preset {_plain(card.preset)}, {card.precision}). It depends on {card.halo} pixels "
        "around a pixel.\n"
    )


def _span(values: tuple[float, ...] | None) -> str | None:
    """Return one number for all bands, or the least and the largest."""
    if values is None:
        return None
    return f"{min(values):g}" if min(values) == max(values) else f"{min(values):g} to {max(values):g}"


def _data(card: ModelCard) -> str:
    waves = card.wavelengths
    box = None if card.bounds is None else "west {:.5f}, south {:.5f}, east {:.5f}, north {:.5f}".format(*card.bounds)
    values = f"{card.units or 'values'}, stored as {card.stored or UNKNOWN}"
    facts = {
        **({"Training scene": card.name} if card.scenes is None else {"Training scenes": ", ".join(card.scenes)}),
        "Sensor": card.sensor,
        "Acquired": card.acquired,
        "Place (degrees)": box,
        "Pixel size (m)": None if card.pixel_size is None else " x ".join(f"{m:g}" for m in card.pixel_size),
        "Bands": card.bands,
        "Bands of the file": None if card.band_numbers is None else ranges(card.band_numbers),
        "Wavelengths (nm)": None if waves is None else f"{min(waves):g} to {max(waves):g}",
        "Widths (nm)": None if card.fwhm is None else f"{min(card.fwhm):g} to {max(card.fwhm):g}",
        "Values": values + (", by each scene's scale and offset" if card.scaled else ""),
        "Scale": _span(card.scales),
        "Offset": _span(card.offsets),
        "Nodata": card.nodata,
        "Attribution": card.attribution,
        "Licence": card.licence,
        "Trained": card.created,
    }
    return _table(("", ""), [(key, UNKNOWN if value in (None, "") else value) for key, value in facts.items()])


def _split(accuracy: Mapping[str, Any]) -> str:
    if not accuracy:
        return "The accuracy of this model was never measured."
    leakage = accuracy.get("leakage")
    shown = UNKNOWN if not isinstance(leakage, int | float) else f"{100 * leakage:.1f} %"
    facts = {
        "Split": accuracy.get("split"),
        "Seed": accuracy.get("seed"),
        "Training pixels": accuracy.get("train_pixels"),
        "Pixels that the accuracy is of": accuracy.get("scored_pixels", accuracy.get("test_pixels")),
        "Leakage": shown,
    }
    return (
        _table(("", ""), [(key, UNKNOWN if value is None else value) for key, value in facts.items()])
        + "\n\nLeakage is the share of test pixels whose window holds a training pixel. Where it is high, the accuracy "
        "says how well labelled fields are filled in, and little of other fields."
    )


def _accuracy(card: ModelCard) -> str:
    found = card.accuracy or {}
    rows = []
    for key, title, factor in (("oa", "Overall accuracy (%)", 100), ("aa", "Average accuracy (%)", 100),
                               ("kappa", "Kappa x 100", 100), ("ece", "Expected calibration error", 1)):  # fmt: skip
        value = found.get(key)
        if isinstance(value, int | float):
            rows.append((title, f"{factor * value:.{2 if factor == 100 else 4}f}", _interval(found, key, factor)))
    if not rows:
        return "Not measured."
    return _table(("Figure", "Value", "95 % interval"), rows)


def _interval(found: Mapping[str, Any], key: str, factor: int) -> str:
    ends = _listed(found.get(f"{key}_interval"))
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return "not computed"
    return f"{factor * ends[0]:.2f} to {factor * ends[1]:.2f}"


def _compact(card: ModelCard, facts: Mapping[str, Any]) -> str:
    """Say what a compact model was taught on, and how it compares with its full model."""
    parts = []
    for title, key in (("held out, of a student that was taught on the rest", "held_out"), ("shown", "shown")):
        found = _mapping(facts.get(key))
        figures = [_percent(found.get(one)) for one in ("agreement", "confident_agreement", "oa", "oa_full")]
        parts.append((f"Ground that was {title}", found.get("pixels"), *figures))
    head = ("Compared on", "Pixels", "Agreement (%)", "Where the full model is confident (%)", "OA (%)",
            "The full model's OA (%)")  # fmt: skip
    scenes = ", ".join(f"'{_plain(one['name'])}'" for one in facts["scenes"])
    lines = [
        f"It was taught on {scenes}, and knows little of other ground: `sdiff map` warns where it maps another scene.",
        _table(head, parts),
        _table(("Class", "Agreement, held out (%)", "Agreement, shown (%)", "Accuracy (%)", "The full model's (%)"),
               _rows_of_classes(card, facts)),
        *(f"It was written with --force: {_plain(str(one))}." for one in _listed(facts.get("forced"))),
    ]  # fmt: skip
    return "\n\n".join(lines)


def _rows_of_classes(card: ModelCard, facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    held, shown = (_listed(_mapping(facts.get(key)).get("classes")) for key in ("held_out", "shown"))
    return [
        (c.name, _percent(_listed(one)[0]), *map(_percent, _listed(two)))
        for c, one, two in zip(card.classes, held, shown, strict=False)
        if _listed(one)
    ]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _percent(share: object) -> str:
    return f"{100 * share:.2f}" if isinstance(share, int | float) else "-"


def _use(card: ModelCard, name: str) -> str:
    return (
        f"Maps of land cover from scenes of {_plain(card.sensor or 'the same sensor')}, in values of the same kind, "
        "in regions and seasons like those of the training scene.\n\n"
        "```\npip install spectraldiff\n"
        f"sdiff map scene.tif --model {name} --out classes.tif --confidence sure.tif\n```\n\n"
        "Any program that runs ONNX can run the file: raw values in, classes, confidence and probabilities out."
    )


def _limits(card: ModelCard) -> str:
    lines = [
        "Every pixel with data gets one of the classes, also where the land cover is none of them.",
        "Other sensors, other processing levels and other seasons give other spectra: measure the accuracy on labels "
        "of your own (`sdiff evaluate`).",
        "Confidences hold for pixels like those that the accuracy was measured on.",
    ]
    if card.agreement:
        where = str(card.agreement.get("processor") or "")
        verified = f", which was measured on {_plain(where)}" if where else ""
        lines.append(
            f"It computes in {card.precision}; a part of the pixels gets another class than in fp32{verified}."
        )
    lines += [_plain(str(note)) for note in _listed((card.accuracy or {}).get("notes"))]
    return "\n".join(f"- {line}" for line in lines)


def _classes(card: ModelCard) -> str:
    rows = [(c.value, c.name, "#{:02x}{:02x}{:02x}".format(*c.colour)) for c in card.classes]
    return _table(("Value", "Class", "Colour"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_plain(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
