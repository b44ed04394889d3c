"""Metadata of products in XML: values by the names of their elements, namespaces left out."""

import math
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError


class Metadata:
    """A metadata file.

    Raises
    ------
    SceneError
        It is no XML, or what is asked for is missing or no number.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        try:
            self.root = ElementTree.fromstring(content)  # noqa: S314 (expat bounds what entities expand to)
        except ElementTree.ParseError as error:
            raise SceneError(f"'{name}' is damaged or cut short ({error}): copy or download it again") from error
        for element in self.root.iter():
            element.tag = str(element.tag).rpartition("}")[2]

    def text(self, path: str) -> str:
        """Return the text of the first element of that path below the root; empty where there is none."""
        return (self.root.findtext(path) or "").strip()

    def anywhere(self, *names: str) -> str:
        """Return the text of the first element with one of these names, wherever it stands; empty without."""
        found = (element.text for name in names for element in self.root.iter(name))
        return next((text.strip() for text in found if text and text.strip()), "")

    def optional_number(self, path: str) -> float | None:
        """Return a number; None where there is none."""
        return as_number(self.text(path))

    def bands(self, path: str, number: str) -> list[ElementTree.Element]:
        """Return the elements of that path, one a band, in the order of the bands' numbers.

        Parameters
        ----------
        number
            The attribute, or else the element below, that holds a band's number.

        Raises
        ------
        SceneError
            There is none, or their numbers are not 1 to n.
        """
        found = {_whole(e.get(number) or e.findtext(number)): e for e in self.root.findall(path)}
        if not found or sorted(found, key=lambda n: n or 0) != list(range(1, len(found) + 1)):
            raise SceneError(
                f"'{self.name}' describes no bands 1 to n (in {path}): it is cut short or of another product; download "
                "it again"
            )
        return [found[n] for n in range(1, len(found) + 1)]

    def values(self, bands: list[ElementTree.Element], name: str, default: float | None = None) -> NDArray[np.float64]:
        """Return the element `name` of each band as a number, (B,)."""
        found = []
        for i, band in enumerate(bands, start=1):
            text = band.findtext(name)
            try:
                found.append(float(text) if text is not None or default is None else default)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise SceneError(f"'{self.name}' has no number as {name} of band {i}: download it again") from None
        return np.array(found, np.float64)


def as_number(text: str) -> float | None:
    """Return a finite number; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None
