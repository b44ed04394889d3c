"""Results on disk: one JSON file and one map for each method and seed, written atomically, never computed twice."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spectraldiff.accuracy.metrics import Accuracy
from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.errors import RunError


@dataclass(frozen=True)
class Outcome:
    """The result of a method before it is scored.

    Attributes
    ----------
    map
        (H, W) classes 1..K, 0 for pixels without data.
    train_seconds, map_seconds
        Wall time.
    chosen
        Parameters chosen by the method.
    window
        Side of the window that a class depends on, if the method chose it; otherwise that of `Method`.
    confidence
        (H, W) probability of the class, 0..1, of methods that give one.
    equal
        The map where all classes are equally frequent beforehand, of methods that give one.
    """

    map: NDArray[Any]
    train_seconds: float
    map_seconds: float
    chosen: Mapping[str, float]
    window: int | None = None
    confidence: NDArray[Any] | None = None
    equal: NDArray[Any] | None = None


@dataclass(frozen=True)
class Result:
    """One finished training: accuracies on the test pixels as fractions, NaN if undefined.

    Attributes
    ----------
    method, seed
        Method and seed of the training.
    oa, aa, kappa, per_class
        See `spectraldiff.accuracy.metrics.Accuracy`.
    macro_f1
        Mean over classes of the harmonic mean of precision and recall.
    ece
        Expected calibration error of the confidence; None for a method without one.
    leakage
        Share of the test pixels whose window contains a training pixel.
    train_seconds, map_seconds
        Wall time.
    map_path
        The map, a .npy file.
    equal_aa
        AA of the map under equal shares of the classes; None for a method without one.
    """

    method: str
    seed: int
    oa: float
    aa: float
    kappa: float
    per_class: tuple[float, ...]
    macro_f1: float
    ece: float | None
    leakage: float
    train_seconds: float
    map_seconds: float
    map_path: Path
    equal_aa: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any], map_path: Path) -> Self:
        """Rebuild a result from what `Store.write` wrote."""
        found = values["accuracy"]
        return cls(
            method=values["method"],
            seed=values["seed"],
            oa=_number(found["oa"]),
            aa=_number(found["aa"]),
            kappa=_number(found["kappa"]),
            per_class=tuple(_number(share) for share in found["per_class"]),
            macro_f1=_number(values.get("macro_f1")),
            ece=values.get("ece"),
            leakage=values["leakage"],
            train_seconds=values["train_seconds"],
            map_seconds=values["map_seconds"],
            map_path=map_path,
            equal_aa=values.get("equal_aa"),
        )


class Store:
    """The folder of results.

    Parameters
    ----------
    folder
        Made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error

    def read(self, method: str, seed: int, settings: Mapping[str, Any]) -> Result | None:
        """Return a finished result; None if there is none.

        Raises
        ------
        RunError
            The result was made with other settings or is damaged.
        """
        path = self._path(method, seed, "json")
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text("utf-8"))
            result = Result.from_json(values, self._path(method, seed, "npy"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{path}' is damaged ({error!r}): remove it, and the method runs again") from None
        check_same(path, values.get("settings", {}), settings)
        return result

    def write(
        self,
        method: str,
        seed: int,
        settings: Mapping[str, Any],
        outcome: Outcome,
        accuracy: Accuracy,
        leakage: float,
        ece: float | None = None,
        equal_aa: float | None = None,
    ) -> Result:
        """Write a result; the JSON file is written last and marks it as finished."""
        values = {
            "method": method,
            "seed": seed,
            "settings": plain(settings),
            "chosen": dict(outcome.chosen),
            "accuracy": accuracy.as_dict(),
            "macro_f1": accuracy.macro_f1,
            "ece": ece,
            "equal_aa": equal_aa,
            "leakage": leakage,
            "train_seconds": round(outcome.train_seconds, 2),
            "map_seconds": round(outcome.map_seconds, 2),
        }
        map_path = self._path(method, seed, "npy")
        with PartialFile(map_path, overwrite=True) as file:
            with file.partial.open("wb") as stream:
                np.save(stream, outcome.map)
            file.publish()
        write_text(self._path(method, seed, "json"), json.dumps(values, indent=2, allow_nan=False))
        return Result.from_json(values, map_path)

    def _path(self, method: str, seed: int, suffix: str) -> Path:
        return self.folder / f"{method}-seed{seed}.{suffix}"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; an existing file is replaced."""
    with PartialFile(path, overwrite=True) as file:
        file.partial.write_text(text + "\n", "utf-8")
        file.publish()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON returns them: tuples become lists."""
    return dict(json.loads(json.dumps(dict(settings), allow_nan=False)))


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that the file at `path` was made with the same settings.

    Raises
    ------
    RunError
        A setting differs; the message names the first one.
    """
    now = plain(wanted)
    for name in sorted({*found, *now}):
        if found.get(name) != now.get(name):
            raise RunError(
                f"'{path}' was made with {name} {_short(found.get(name))}, and now {_short(now.get(name))} is wanted: "
                "give another --out, or remove it"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
