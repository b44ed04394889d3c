"""What is said of a compact model: in its card, on its page, and at its export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectraldiff_export.compact.check import CONFIDENT, Comparison


@dataclass(frozen=True)
class TaughtScene:
    """A scene that a student was taught on.

    Attributes
    ----------
    name, mark
        What it is called, and what it is known by, see `spectraldiff_runtime.scene.mark`.
    windows, whole
        Windows of it that were shown, and whether these are all of it.
    held_out
        The student that was taught on the rest, on the ground that was held out.
    shown
        The student that is in the file, on all of the ground.
    """

    name: str
    mark: str
    windows: int
    whole: bool
    held_out: Comparison
    shown: Comparison


@dataclass(frozen=True)
class CompactFacts:
    """How a compact model was made, and how it compares with its full model.

    Attributes
    ----------
    scenes
        What it was taught on.
    held_out, shown
        As of a scene, of all of them together.
    temperature
        What the student's scores are divided by.
    labelled
        What the labelled pixels are that accuracies are of: ``"test pixels"``, or training pixels where none test.
    forced
        Why it would have been refused; empty where it was not.
    """

    scenes: tuple[TaughtScene, ...]
    held_out: Comparison
    shown: Comparison
    temperature: float
    labelled: str
    forced: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the card; figures by class are of all scenes together."""
        return {
            "scenes": [
                {
                    "name": one.name,
                    "mark": one.mark,
                    "windows": one.windows,
                    "whole": one.whole,
                    "held_out": _without_classes(one.held_out),
                    "shown": _without_classes(one.shown),
                }
                for one in self.scenes
            ],
            "held_out": self.held_out.as_dict(),
            "shown": self.shown.as_dict(),
            "confident_from": CONFIDENT,
            "temperature": self.temperature,
            "labelled": self.labelled,
            "forced": list(self.forced),
        }

    def lines(self, names: Sequence[str]) -> list[str]:
        """Return what an export says of it, one sentence each, with a line for each class that differs."""
        found = [*self._shares("Held out (taught on the rest of the ground)", self.held_out)]
        found += self._shares("Shown (the file itself, on the ground that it was taught on)", self.shown)
        if self.shown.ece is not None:
            found.append(
                f"Confidences: temperature {self.temperature:.2f}, expected calibration error {self.shown.ece:.4f} on "
                f"{self.labelled}"
            )
        for one in self.scenes if len(self.scenes) > 1 else ():
            how = "whole" if one.whole else f"in {one.windows} windows"
            found.append(f"'{one.name}', shown {how}:")
            found += [
                f"  {line}" for line in (*self._shares("Held out", one.held_out), *self._shares("Shown", one.shown))
            ]
        return [*found, *self._by_class(names)]

    def _shares(self, title: str, found: Comparison) -> list[str]:
        if found.agreement is None:
            return [f"{title}: no pixels"]
        sure = found.confident_agreement
        confident = "" if sure is None else f", at {100 * sure:.2f} % of {found.confident:,} of which that is confident"
        lines = [
            f"{title}: the full model's class at {100 * found.agreement:.2f} % of {found.pixels:,} pixels{confident}"
        ]
        if found.oa is not None and found.oa_full is not None:
            lines.append(
                f"  OA {100 * found.oa:.2f}, the full model's {100 * found.oa_full:.2f}, on {found.test_pixels:,} "
                f"{self.labelled}"
            )
        return lines

    def _by_class(self, names: Sequence[str]) -> list[str]:
        lines = []
        rows = zip(names, self.held_out.classes, self.shown.classes, strict=True)
        for name, (held, _, _), (shown, own, full) in rows:
            lines.append(
                f"  {name}: agreement held out {_percent(held)}, shown {_percent(shown)}; accuracy {_percent(own)}, "
                f"full model {_percent(full)}"
            )
        return ["By class:", *lines]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _without_classes(found: Comparison) -> Mapping[str, Any]:
    return {key: value for key, value in found.as_dict().items() if key != "classes"}
