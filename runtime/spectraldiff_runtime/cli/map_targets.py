"""Which file each scene's map goes to."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from spectraldiff_runtime.errors import UsageError

GEOTIFFS = (".tif", ".tiff", "")


class Driver(StrEnum):
    """The formats of class maps."""

    COG = "COG"
    GTIFF = "GTiff"
    GPKG = "GPKG"
    PNG = "PNG"
    NETCDF = "netCDF"
    ZARR = "Zarr"

    @property
    def suffix(self) -> str:
        """What the names of class maps in it end in."""
        return {"GPKG": ".gpkg", "PNG": ".png", "netCDF": ".nc", "Zarr": ".zarr"}.get(self.value, ".tif")


# What the files that may be requested in addition to the class map end in.
SUFFIXES = {"confidence": ".tif", "probabilities": ".tif", "outside": ".tif", "preview": ".png"}


@dataclass(frozen=True)
class Target:
    """One scene and the files that its map goes to."""

    scene: str
    out: Path
    confidence: Path | None = None
    probabilities: Path | None = None
    outside: Path | None = None
    preview: Path | None = None

    def extra(self) -> dict[str, Path]:
        """Return the files requested in addition to the class map."""
        named = {name: getattr(self, name) for name in SUFFIXES}
        return {name: path for name, path in named.items() if path is not None}

    def check(self, inputs: Sequence[Path], overwrite: bool) -> None:
        """Refuse outputs that cannot be, before anything is opened."""
        from spectraldiff_runtime.atomic import check_distinct, check_output, check_raster_name
        from spectraldiff_runtime.formats.kinds import check_map_name

        named = {"--out": self.out, **{f"--{name}": path for name, path in self.extra().items()}}
        check_distinct(named, inputs)
        for option, path in named.items():
            if option == "--out":
                check_map_name(path)
            elif option != "--preview":
                check_raster_name(option, path)
            check_output(path, overwrite)

    def as_dict(self) -> dict[str, Any]:
        """Return the names for JSON."""
        return {"scene": self.scene, **{name: getattr(self, name) for name in SUFFIXES}}


def choose_targets(
    scenes: Sequence[str], out: Path | None, out_dir: Path | None, extra: dict[str, Path | None], driver: Driver | None
) -> list[Target]:
    """Return what goes where: one scene to --out, or each to its own name in --out-dir, in the format of --of."""
    if (out is None) == (out_dir is None):
        raise UsageError("give --out classes.tif for one scene, or --out-dir maps/ for many")
    if out is not None:
        if len(scenes) > 1:
            raise UsageError(f"{len(scenes)} scenes cannot all go to '{out}': give --out-dir maps/")
        suffix = out.suffix.lower()
        if driver is not None and suffix != driver.suffix and not (driver.suffix == ".tif" and suffix in GEOTIFFS):
            raise UsageError(f"--of is {driver} and --out is '{out}': wanted a name that ends in {driver.suffix}")
        return [Target(scenes[0], out, **extra)]
    assert out_dir is not None
    suffix = ".tif" if driver is None else driver.suffix
    targets = [_in_folders(scene, out_dir, extra, suffix) for scene in scenes]
    first: dict[Path, str] = {}
    for target in targets:
        other = first.setdefault(target.out, target.scene)
        if other is not target.scene:
            raise UsageError(f"'{other}' and '{target.scene}' would both be mapped to '{target.out}': rename one")
    return targets


@contextmanager
def made_folders(folders: Iterable[Path | None]) -> Iterator[None]:
    """Make the folders of --out-dir and of the options for further outputs; in the end, those left empty go again.

    Raises
    ------
    UsageError
        One cannot be made.
    """
    made: list[Path] = []
    try:
        for folder in folders:
            if folder is not None and not folder.is_dir():
                try:
                    folder.mkdir()
                except OSError as error:
                    raise UsageError(
                        f"'{folder}' is no folder and cannot be made ({error.strerror}): with --out-dir, outputs go to "
                        "folders"
                    ) from error
                made.append(folder)
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _in_folders(scene: str, out_dir: Path, extra: dict[str, Path | None], suffix: str) -> Target:
    stem = Path(scene.rstrip("/")).stem
    files = {name: None if folder is None else folder / f"{stem}{SUFFIXES[name]}" for name, folder in extra.items()}
    return Target(scene, out_dir / f"{stem}{suffix}", **files)
