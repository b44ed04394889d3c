"""Labelled scenes, from files or by the name of a benchmark."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from spectraldiff.api.results import OpenedScene
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.source import SceneFiles, SceneSource, whole_path
from spectraldiff_runtime.cli.options import training_package
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice, cloud_choice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import ALL_BANDS, BandChoice

PathLike = str | os.PathLike[str]


@overload
def open_labelled(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    scene: PathLike,
    labels: PathLike | Sequence[PathLike],
    *,
    field: str | None = ...,
    name_field: str | None = ...,
    layer_name: str | None = ...,
    encoding: str | None = ...,
    bands: BandChoice = ...,
    nodata: Nodata = ...,
    scaled: bool = ...,
    clouds: CloudChoice = ...,
) -> OpenedScene: ...
@overload
def open_labelled(
    scene: Sequence[PathLike],
    labels: PathLike | Sequence[PathLike],
    *,
    field: str | None = ...,
    name_field: str | None = ...,
    layer_name: str | None = ...,
    encoding: str | None = ...,
    bands: BandChoice = ...,
    nodata: Nodata = ...,
    scaled: bool = ...,
    clouds: CloudChoice = ...,
) -> list[OpenedScene]: ...
def open_labelled(
    scene: PathLike | Sequence[PathLike],
    labels: PathLike | Sequence[PathLike],
    *,
    field: str | None = None,
    name_field: str | None = None,
    layer_name: str | None = None,
    encoding: str | None = None,
    bands: BandChoice = None,
    nodata: Nodata = NODATA_OF_FILE,
    scaled: bool = False,
    clouds: CloudChoice = KEEP,
) -> OpenedScene | list[OpenedScene]:
    """Read a scene and its labels, or several scenes and labels for all of them.

    Parameters
    ----------
    scene
        A raster that GDAL reads, also by URL, or a product as delivered: (H, W, B); what is too large stays on disk.
        Of a list of scenes, a list is returned; some may have no label, and train the denoiser alone.
    labels
        Polygons or points in a vector file, in any CRS; or a raster with 0 for unlabelled and classes from 1. Of
        several files all labels are taken. An empty list for scenes that train the denoiser alone.
    field, name_field, layer_name, encoding
        Of a vector file: the field with the class, text or numbers from 1; that with the classes' names where `field`
        has numbers; the layer where it has several; the encoding of its texts, None for what it says, or a guess.
    bands
        Numbers of the bands to use, from 1; by default all but those that the raster calls bad; ``"all"``
        for all.
    nodata
        Value of pixels without data, None for none, or ``"file"`` for the raster's own.
    scaled
        Whether the raster's scale and offset are applied; maps of the model apply them, too.
    clouds
        Whether pixels that the product marks as cloudy are used (``"keep"``) or count as without data (``"drop"``).

    Raises
    ------
    SceneError, LabelsError
        A file is not there, cannot be read, or the labels do not lie on the scene.
    UsageError
        The vector file has no such field or layer.

    Examples
    --------
    >>> scene = sd.open_labelled("scene.tif", "labels.gpkg", field="class")
    >>> plots = sd.open_labelled(sorted(Path("plots").glob("*.tif")), "crowns.gpkg", field="species")
    """
    alone = isinstance(scene, str | os.PathLike)
    paths = [scene] if isinstance(scene, str | os.PathLike) else list(scene)
    own = tuple(whole_path(one) for one in ([labels] if isinstance(labels, str | os.PathLike) else labels))
    source = SceneSource(
        scenes=tuple(SceneFiles(whole_path(one), own) for one in paths),
        fields=LabelFields(field, layer_name, name_field, encoding),
        bands=bands if bands is None or bands == ALL_BANDS else tuple(bands),
        nodata=nodata,
        scaled=scaled,
        clouds=cloud_choice(clouds),
    )
    source.check_files()
    # A class of its own is enough here: `train` counts those of all its scenes.
    found = [
        OpenedScene.of(one, replace(source, scenes=(files,)))
        for one, files in zip(source.read(least=1), source.scenes, strict=True)
    ]
    return found[0] if alone else found


def open_dataset(name: str, *, data_dir: PathLike | None = None) -> OpenedScene:
    """Load a benchmark scene; its files are downloaded if they are not there yet.

    Parameters
    ----------
    name
        As `list_datasets` lists it: ``"indian-pines"`` needs no download.
    data_dir
        Folder with files that you have already.

    Raises
    ------
    UsageError
        There is no scene of that name.
    DatasetError
        A file cannot be downloaded or is not the published one.

    Examples
    --------
    >>> scene = sd.open_dataset("indian-pines")
    >>> scene.write("scene.tif", labels="labels.tif")
    """
    with training_package("datasets"):
        from spectraldiff.datasets import registry
    folder = None if data_dir is None else Path(data_dir)
    source = SceneSource(dataset=name, data_dir=None if folder is None else whole_path(folder))
    return OpenedScene.of(registry.load(name, folder), source)


def list_datasets(*, data_dir: PathLike | None = None) -> list[dict[str, Any]]:
    """List the benchmark scenes: name, sensor, size, classes, licence, and whether their files are on disk.

    Parameters
    ----------
    data_dir
        Folder with files that you have already.

    Raises
    ------
    DatasetError
        There is no such folder.

    Examples
    --------
    >>> [one["name"] for one in sd.list_datasets()]
    """
    with training_package("datasets"):
        from spectraldiff.datasets import registry
    return [registry.facts(name, None if data_dir is None else Path(data_dir)) for name in registry.names()]
