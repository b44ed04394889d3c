"""The classes' shares that a map assumes: those of the training pixels, equal ones, or given ones.

Training pixels are not drawn as a map's pixels are. The scores of a model hold no prior, so that the logs of any shares
can be added to them.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectraldiff.ensemble.held_out_loss import log_priors
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.gdal import check_plain

OF_TRAINING, EQUAL = "training", "equal"
Shares = tuple[tuple[str, float], ...]
LEAST, MOST = 1e-12, 1e12  # of a share, before they are divided by their sum
SHOWN = 100  # characters of a line that is wrong


@dataclass(frozen=True)
class Prior:
    """Shares of the classes.

    Attributes
    ----------
    name
        ``"training"``, ``"equal"``, or the name of the file that the shares are from.
    shares
        (K,) of a file, their sum 1; None for the other two.
    """

    name: str = OF_TRAINING
    shares: tuple[float, ...] | None = None

    def logs(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
        """Return the logs of the shares, (K,); `labels`, (n,), are the training pixels' classes from 0."""
        if self.shares is not None:
            return np.asarray(np.log(self.shares), dtype=np.float64)
        if self.name == EQUAL:
            return np.full(classes, -np.log(classes))
        return log_priors(labels, classes)

    @property
    def other(self) -> "Prior":
        """The prior that a report compares with: equal shares, or those of the training pixels."""
        return Prior(EQUAL) if self.name == OF_TRAINING else Prior()

    @property
    def title(self) -> str:
        """What reports call it."""
        if self.shares is not None:
            return f"the shares of '{self.name}'"
        return "equal shares of the classes" if self.name == EQUAL else "the training pixels' shares of the classes"


OF_TRAINING_PIXELS = Prior()


def read_shares(path: str | Path) -> Shares:
    """Read class and share of each line of a CSV file; a first line of other words is its header.

    Raises
    ------
    UsageError
        The file cannot be read, or a line has no class and share, from 1e-12 to 1e12.
    SceneError
        It is a pipe or a device.
    """
    check_plain(path)
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"the prior '{path}' cannot be read ({error}): wanted training, equal, or a CSV file of class,share"
        ) from None
    found = []
    for number, row in enumerate(rows):
        share = _share(row)
        if share is None and number == 0 and len(row) == 2 and not _is_number(row[1]):
            continue
        if share is None:
            raise UsageError(f"'{path}' has the line '{','.join(row)[:SHOWN]}': wanted a class and its share above 0")
        found.append((row[0], share))
    if len({name for name, _ in found}) < max(len(found), 1):
        raise UsageError(f"'{path}' names {'a class twice' if found else 'no class'}: wanted one share a class")
    return tuple(found)


def _share(row: Sequence[str]) -> float | None:
    share = float(row[1]) if len(row) == 2 and _is_number(row[1]) else 0.0
    return share if LEAST <= share <= MOST else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def prior_of(name: str, shares: Shares | None, classes: Sequence[LandCoverClass]) -> Prior:
    """Return the prior for some classes; those of `shares` are named by name or by value.

    Raises
    ------
    LabelsError
        A class has no share, or a share belongs to no class.
    """
    if shares is None:
        return Prior(name)
    given, values = dict(shares), []
    for one in classes:
        key = one.name if one.name in given else str(one.value)
        if key not in given:
            raise LabelsError(f"'{name}' has no share of class {one.value} \"{one.name}\": wanted one of each class")
        values.append(given.pop(key))
    if given:
        known = ", ".join(one.name for one in classes)
        raise LabelsError(f"'{name}' has a share of '{next(iter(given))[:SHOWN]}', which is no class: wanted {known}")
    return Prior(Path(name).name, tuple((np.array(values) / sum(values)).tolist()))
