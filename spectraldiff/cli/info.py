"""``sdiff info``: what a model file, a raster or a run folder is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from spectraldiff.api.describe import describe
from spectraldiff_runtime.cli.options import Json, Overwrite, print_json, tell
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.messages import cell, console, ranges

# Figures that lie from 0 to 1 and are printed in percent, as everywhere that people read.
SHARES = {"oa", "aa", "ece", "oa_interval", "leakage", "per_class"}


def info(
    file: Annotated[str, typer.Argument(help="A model file, a raster, a product as delivered or a run folder.")],
    preview: Annotated[
        Path | None,
        typer.Option(help="Also draw the scene in true colours, by its wavelengths: .png or .jpg.", show_default=False),
    ] = None,
    stac: Annotated[bool, typer.Option("--stac", help="Print a model file's STAC item.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a model file's card for people.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Say what a model file, a raster, a product or a run folder is and holds."""
    if stac or markdown:
        _print_page(Path(file), stac, markdown, json or preview is not None)
        return
    facts = describe(file)
    if preview is not None:
        facts = {**facts, **_draw(file, str(facts["kind"]), preview, overwrite)}
    if json:
        print_json(facts)
    else:
        _print_facts(facts)


def _print_page(file: Path, stac: bool, markdown: bool, more: bool) -> None:
    """Print what `sdiff export` writes next to a model file, made again of the card inside."""
    from spectraldiff_runtime.model.model_file import read_card
    from spectraldiff_runtime.model.model_page import model_page
    from spectraldiff_runtime.model.stac_item import stac_item

    if (stac and markdown) or more:
        raise UsageError("--stac and --markdown each print one page: give one of them, without --json and --preview")
    card = read_card(file, unsealed=True)
    if stac:
        print_json(stac_item(card, file))
    else:
        for line in model_page(card, file.name).splitlines():
            tell(line)


def _draw(file: str, kind: str, preview: Path, overwrite: bool) -> dict[str, Any]:
    """Write a true-colour picture of a scene; return what it shows."""
    from spectraldiff.report.true_colour import true_colour
    from spectraldiff_runtime.atomic import PartialFile, check_distinct, check_output, output_error
    from spectraldiff_runtime.output.preview import FORMATS, check_preview
    from spectraldiff_runtime.products.recognise import open_scene

    if kind not in ("product", "raster"):
        raise UsageError(f"--preview draws scenes and '{file}' is a {kind}: leave it out")
    check_preview(preview)
    check_output(preview, overwrite)
    with open_scene(file) as scene:
        check_distinct({"--preview": preview}, [Path(file), *scene.files])
    drawn = true_colour(file)
    with PartialFile(preview, overwrite) as output:
        try:
            with output.partial.open("wb") as stream:
                drawn.image.save(stream, FORMATS[preview.suffix.lower()])
        except OSError as error:
            raise output_error(preview, error) from error
        output.publish()
    red, green, blue = (f"{band} ({nm:.1f} nm)" for band, nm in zip(drawn.bands, drawn.centres, strict=True))
    return {"preview": str(preview), "preview_bands": f"red {red}, green {green}, blue {blue}"}


def _print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts as lines of name and value, nested ones indented, and classes with their colours."""
    from rich.text import Text

    page = console(stderr=False, soft_wrap=True)  # paths and commands are never cut
    model = facts.get("model", {})  # of a run
    classes = facts.get("classes") or _drawable(model.get("classes"))
    if "classes" in model and classes:
        facts = {**facts, "model": {k: v for k, v in model.items() if k != "classes"}}
    lines = _flat({k: v for k, v in facts.items() if k != "classes"})
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        page.print(cell(name.ljust(width) + "  ", "bold").append(cell(value, "default")))
    for c in classes:
        square = Text("\u25a0 ", "rgb({},{},{})".format(*c["colour"]))
        page.print(Text(f"{c['value']:5d}  ").append(square).append(cell(c["name"], "default")))


def _drawable(classes: Any) -> list[dict[str, Any]]:
    """Return a run's classes where they are whole; none where they are not."""
    return classes if isinstance(classes, list) and all(map(_is_drawable, classes)) else []


def _is_drawable(one: Any) -> bool:
    facts = one if isinstance(one, dict) else {}
    colour = facts.get("colour")
    if not isinstance(facts.get("value"), int) or not isinstance(facts.get("name"), str):
        return False
    levels = colour if isinstance(colour, list) and len(colour) == 3 else [None]
    return all(isinstance(level, int) and 0 <= level <= 255 for level in levels)


def _flat(facts: Mapping[str, Any], depth: int = 0) -> list[tuple[str, str]]:
    """Return (name, text) lines, without what is unknown and without long lists of numbers."""
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = "  " * depth + _title(key)
        if isinstance(value, Mapping):
            lines += [(name, ""), *_flat(value, depth + 1)] if value else []
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lines += [(name, ""), *(_line(item, number, depth + 1) for number, item in enumerate(value, start=1))]
        elif value not in (None, "", []):
            lines.append((name, _text(value, key)))
    return lines


def _line(facts: Mapping[str, Any], number: int, depth: int) -> tuple[str, str]:
    """Return one item of a list, by its name or else its number, and what is known of it."""
    known = [f"{_title(k)} {_text(v, k)}" for k, v in facts.items() if k != "name" and v not in (None, "", [])]
    return "  " * depth + str(facts.get("name", number)), "; ".join(known)


def _title(key: str) -> str:
    if key in ("oa", "aa", "ece"):
        return key.upper()
    if key == "oa_interval":
        return "OA interval"
    return "kappa x 100" if key == "kappa" else str(key).replace("_", " ")


def _text(value: Any, key: str = "") -> str:
    """Return a value as text; `key` says whether it is a share."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_title(k)} {_text(v, k)}" for k, v in value.items())
    if not isinstance(value, list):
        return _number(value, key) if isinstance(value, float) else str(value)
    if value and all(isinstance(item, list) for item in value):
        return f"{len(value)} rows of {len(value[0])} values"
    if key == "bad_bands":
        return ranges(value)
    if len(value) > 8:
        return f"{len(value)} values"
    if key in ("shape", "pixel_size_m"):
        return " x ".join(_text(item) for item in value)
    if key not in ("per_class", "bad_bands_nm") and len(value) == 2 and all(isinstance(item, float) for item in value):
        return " to ".join(_number(item, key) for item in value)
    return ", ".join(_text(item, key) for item in value)


def _number(value: float, key: str) -> str:
    if key == "kappa":
        return f"{100 * value:.2f}"
    return f"{100 * value:.2f} %" if key in SHARES else f"{value:.8g}"
