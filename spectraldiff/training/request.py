"""What a user asks `sdiff train` for: kept in the run folder, so that a training can go on without being told again."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from spectraldiff.accuracy.independent_test import IndependentLabels, read_independent
from spectraldiff.data.label_raster import check_grids, read_marks
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles, SceneSource, check_exists, whole_path
from spectraldiff.data.value_checks import prepared
from spectraldiff.datasets import registry
from spectraldiff.ensemble.prior import EQUAL, OF_TRAINING, Prior, Shares, prior_of, read_shares
from spectraldiff.models.classifier import empty_classifier
from spectraldiff.models.presets import PRESETS, Preset, preset_named
from spectraldiff.models.settings import fits, rebuilt
from spectraldiff.options import TrainOptions
from spectraldiff.splits.by_scene import check_names
from spectraldiff.splits.draw import Geometry, make_splits
from spectraldiff.splits.spec import PAPER_COUNTS, Spec, parse_spec
from spectraldiff.splits.split import Split
from spectraldiff.wording import counted
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, RunError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference, crs_of
from spectraldiff_runtime.messages import ranges, sdiff
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import ALL_BANDS


@dataclass(frozen=True)
class Request:
    """A training as asked for.

    Attributes
    ----------
    dataset, data_dir
        Name of a benchmark scene, or None for the user's own files; and the folder of its files.
    scenes
        The user's own scenes, each with the files of its labels.
    field, layer_name, name_field, encoding
        What to read of vector files, see `spectraldiff.data.label_vectors.LabelFields`.
    bands, nodata, scaled, clouds
        As `LabelledScene.from_files` takes them, for own rasters.
    split, seed
        See `spectraldiff.splits.draw.make_splits`.
    split_by
        ``"polygon"`` draws whole polygons where labels come from polygons, ``"pixel"`` never does; ``"scene"`` holds
        out whole scenes in folds.
    final
        ``"all"``: the model that is kept trains on all labelled pixels; ``"train"``: on the split's training pixels,
        which are all with folds.
    mixed_units
        Whether scenes in different units are meant.
    test
        Independent test labels, a file; None for none.
    denoiser
        The run whose denoiser is taken; None to train one.
    prior, shares
        The classes' shares that the map assumes, see `spectraldiff.ensemble.prior.prior_of`; `shares` are a file's.
    preset
        Everything else.
    compare_raw
        Whether the same classifier is also trained on raw bands.
    threads, device
        CPU threads, None for all; ``"auto"``, ``"cpu"`` or ``"cuda"``.
    used_threads, used_device
        What the training began with; None where it is not known.
    resumed
        How it went on with others, one line each: what makes the model another one.
    """

    preset: Preset
    split: str
    seed: int
    compare_raw: bool
    dataset: str | None = None
    data_dir: str | None = None
    scenes: tuple[SceneFiles, ...] = ()
    bands: tuple[int, ...] | Literal["all"] | None = None
    nodata: Nodata = NODATA_OF_FILE
    scaled: bool = False
    clouds: CloudChoice = KEEP
    field: str | None = None
    layer_name: str | None = None
    name_field: str | None = None
    encoding: str | None = None
    split_by: str = "polygon"
    final: str = "train"
    mixed_units: bool = False
    test: str | None = None
    denoiser: str | None = None
    prior: str = OF_TRAINING
    shares: Shares | None = None
    threads: int | None = None
    device: str = "auto"
    used_threads: int | None = None
    used_device: str | None = None
    resumed: tuple[str, ...] = ()

    def load_scenes(self) -> tuple[LabelledScene, ...]:
        """Load the scenes with their labels, with one list of classes.

        Raises
        ------
        SceneError
            No pixel of a scene has data, or all are the same, or float32 cannot hold its values, or the scenes have
            different bands; and the errors of `datasets.load` and `LabelledScene.from_files`.
        """
        self.check_files()
        if self.dataset is not None:
            return self.prepared([registry.load(self.dataset, None if self.data_dir is None else Path(self.data_dir))])
        return self.prepared(self.source.read())

    def load_scene(self) -> LabelledScene:
        """Load the first scene, or the only one; as `load_scenes`."""
        return self.load_scenes()[0]

    def prepared(self, scenes: Sequence[LabelledScene]) -> tuple[LabelledScene, ...]:
        """Check scenes that were read, say what is doubtful in them, and give them one list of classes."""
        return prepared(scenes, self.scenes, scaled=self.scaled, mixed=self.mixed_units)

    @property
    def source(self) -> SceneSource:
        """Where the scenes come from."""
        also = () if self.test is None else (self.test,)
        return SceneSource(
            dataset=self.dataset,
            scenes=self.scenes,
            fields=LabelFields(self.field, self.layer_name, self.name_field, self.encoding, also),
            bands=self.bands,
            nodata=self.nodata,
            scaled=self.scaled,
            clouds=self.clouds,
            data_dir=self.data_dir,
        )

    def check_files(self) -> None:
        """Refuse files that are not there, and a scene that is given twice, before anything is read."""
        if self.dataset is None:
            self.source.check_files()
            spec = parse_spec(self.split, self.dataset)
            if spec.form == "file":
                check_exists(spec.file, "a raster of the pixels that train", LabelsError)
            if self.test is not None:
                check_exists(self.test, "independent test labels, in a vector file or a raster", LabelsError)

    def make_splits(self, scenes: Sequence[LabelledScene]) -> tuple[Split, ...]:
        """Draw the training and test pixels of each scene; pixels without data are in neither."""
        spec = parse_spec(self.split, self.dataset)
        halo = self._halo(scenes[0].cube.shape[2]) if spec.form == "disjoint" else 0
        by_polygon = self.split_by == "polygon" and (spec.rule is not None or spec.form == "folds")
        return make_splits(
            [scene.labels_with_data for scene in scenes],
            self.split,
            self.seed,
            self.dataset,
            scenes[0].classes,
            marked=_marked(spec.file, scenes) if spec.form == "file" else None,
            geometry=Geometry(
                groups=[scene.groups if by_polygon else None for scene in scenes],
                window=self.preset.classifier.window,
                buffer=halo,
                georeferences=[Georeference.of(scene.crs, scene.transform) for scene in scenes],
                canvases=[scene.canvas for scene in scenes],
                by_pixel=self.split_by == "pixel",
                names=[scene.name for scene in scenes],
                by_scene=self.split_by == "scene",
            ),
        )

    def final_splits(self, scenes: Sequence[LabelledScene]) -> tuple[Split, ...] | None:
        """Return the splits whose training pixels train the model that is kept; None for those of `make_splits`."""
        folded = parse_spec(self.split, self.dataset).form == "folds"
        return None if folded or self.final != "all" else replace(self, split="folds").make_splits(scenes)

    def prior_of(self, classes: Sequence[LandCoverClass]) -> Prior:
        """Return the shares of some classes that the map assumes."""
        return prior_of(self.prior, self.shares, classes)

    def test_labels(self, scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> IndependentLabels | None:
        """Read the independent test labels, without the training pixels of `splits`; None where there are none."""
        if self.test is None:
            return None
        return read_independent(self.test, scenes[0], splits[0].train, self.source.fields)

    def make_split(self, scene: LabelledScene) -> Split:
        """Draw the training and test pixels of one scene, as `make_splits`."""
        return self.make_splits([scene])[0]

    def _halo(self, bands: int) -> int:
        """Return the pixels around a pixel that its class depends on: the window's radius and the features' halo."""
        shape = self.preset.vit(components=1, classes=2, members=self.preset.members())
        return empty_classifier(self.preset, bands, shape, features=1).halo

    def command(self, listed: Path | None = None) -> str:
        """Return the line that asks for this training, with its split, its seed and whole paths.

        `listed` is a file with the list of its scenes, where there are several.
        """
        options: dict[str, object] = {
            "--dataset": self.dataset,
            "--data-dir": self.data_dir,
            "--field": self.field,
            "--layer-name": self.layer_name,
            "--name-field": self.name_field,
            "--encoding": self.encoding,
            "--bands": ranges(self.bands) if isinstance(self.bands, tuple) else self.bands,
            "--nodata": None if self.nodata == NODATA_OF_FILE else "none" if self.nodata is None else self.nodata,
            "--clouds": None if self.clouds == KEEP else self.clouds,
            "--split": self.split,
            "--split-by": None if self.split_by == "polygon" else self.split_by,
            "--final": None if self.final == _usual_final(self.split) else self.final,
            "--test": self.test,
            "--denoiser": self.denoiser,
            "--prior": None if self.prior == OF_TRAINING else self.prior,
            "--seed": self.seed,
            "--preset": self.preset.name,
            **_changes(self.preset),
            "--threads": self.threads,
            "--device": None if self.device == "auto" else self.device,
        }
        flags = {"--scaled": self.scaled, "--mixed-units": self.mixed_units, "--compare-raw": self.compare_raw}
        alone = self.scenes if len(self.scenes) == 1 else ()
        words = ["train", *(one.scene for one in alone), *(("--scenes", str(listed)) if len(self.scenes) > 1 else ())]
        words += [word for one in alone for path in one.labels for word in ("--labels", path)]
        words += [str(word) for name, value in options.items() if value is not None for word in (name, value)]
        return sdiff(*words, *(name for name, given in flags.items() if given))

    def gone_on(self, threads: int, device: str) -> "Request":
        """Return the request of a run that goes on with so many threads on such a device; it says where they differ."""
        begun = self.used_threads or threads, self.used_device or device
        if begun == (threads, device):
            return self
        was, now = (f"{counted(count, 'thread')} on {place}" for count, place in (begun, (threads, device)))
        line = (
            f"the training was begun with {was} and goes on with {now}: the model will not be the same as without the "
            "interruption"
        )
        return self if line in self.resumed else replace(self, resumed=(*self.resumed, line))

    def fewer_components(self, model: dict[str, Any]) -> str:
        """Say in one line that a model, by its facts, has fewer components than were asked for; else empty."""
        asked, taken = _changes(self.preset)["--components"], int(model["components"]) - int(model["band_components"])
        if not isinstance(asked, int) or taken >= asked:
            return ""
        return (
            f"--components {asked}: {counted(taken, 'is', 'are')} used: the features hold no more, the others do not "
            "separate the classes, or there are too few training pixels"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        odd = isinstance(self.nodata, float) and not math.isfinite(self.nodata)  # JSON has no such number
        nodata = str(self.nodata) if odd else self.nodata
        return {**asdict(self), "preset": self.preset.to_json(), "nodata": nodata}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Request":
        """Rebuild a request; RunError where it does not fit this version, or a value is of another type."""
        values = _with_scenes(values)
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if not needed <= set(values) <= {f.name for f in fields(cls)}:
            raise RunError("the run was begun by another version of SpectralDiff: train again")
        try:
            found = cls(**{**values, "preset": Preset.from_json(values["preset"]), **_rebuilt(values)})
            odd = [f.name for f in fields(cls) if not fits(f.type, getattr(found, f.name))]
        except (LookupError, TypeError, ValueError) as error:
            odd = [repr(error)]
        if odd:
            raise RunError(f"the run's run.json is damaged ({', '.join(odd)}): train again, or restore it")
        return found


def _rebuilt(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that JSON has as others."""
    bands, nodata, shares = values.get("bands"), values.get("nodata", NODATA_OF_FILE), values.get("shares")
    return {
        "bands": bands if bands is None or bands == ALL_BANDS else tuple(bands),
        "nodata": float(nodata) if nodata in ("nan", "inf", "-inf") else nodata,
        "scenes": tuple(rebuilt(SceneFiles, {**one, "labels": tuple(one["labels"])}) for one in values["scenes"]),
        "shares": None if shares is None else tuple((name, float(share)) for name, share in shares),
        "resumed": tuple(values.get("resumed", ())),
    }


def _with_scenes(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a run with its scenes in one list; earlier runs have the first one and pairs."""
    if "scenes" in values:
        return values
    left = {k: v for k, v in values.items() if k not in ("scene", "labels", "more_labels", "pairs")}
    first = [(values["scene"], values["labels"], *values.get("more_labels", ()))] if values.get("scene") else []
    each = [{"scene": scene, "labels": labels, "name": ""} for scene, *labels in [*first, *values.get("pairs", ())]]
    return {**left, "scenes": each}


def _changes(preset: Preset) -> dict[str, object]:
    """Return the options that make a preset of the one that it is named after; None for those that change nothing."""
    usual = PRESETS.get(preset.name, preset).options()
    return {
        f"--{name.replace('_', '-')}": None if value == usual[name] else value
        for name, value in preset.options().items()
    }


def _marked(path: str, scenes: Sequence[LabelledScene]) -> NDArray[Any] | None:
    """Read the labels of the pixels that train, on the grid of the only scene; None with several scenes."""
    if len(scenes) > 1:
        return None
    scene, shape = scenes[0], scenes[0].cube.shape[:2]
    marked, place = read_marks(path)
    own, grid = Georeference.of(scene.crs, scene.transform), scene.grid
    if grid is not None:
        own, shape = grid.place, (grid.height, grid.width)
    own = replace(own, crs=crs_of(own))
    check_grids(f"the training pixels '{path}'", marked.shape, place, "the scene", shape, own)
    marked = marked if grid is None else grid.highest(marked, scene.cube.shape[:2])
    return marked if scene.canvas is None else scene.canvas.gathered(marked)


def _usual_final(split: str) -> str:
    """Return the pixels that train the model that is kept where nothing is asked for."""
    return "all" if split.partition(":")[0] == "folds" else "train"


def _check_final(final: str | None, split: str) -> str:
    """Return the pixels that train the model that is kept; UsageError where the split leaves no choice."""
    usual = _usual_final(split)
    if final == "train" and usual == "all":
        raise UsageError(
            f"--final train with the split {split}: wanted a split with test pixels, such as --split fraction:0.5; "
            "with folds all labels train"
        )
    return final or usual


def _check_scenes(spec: Spec, split_by: str, source: SceneSource) -> None:
    """Refuse a split by scene of a scene alone, and names that are not those of its scenes."""
    if split_by == "scene" and spec.form != "folds":
        raise UsageError("--split-by scene is for folds: give --split folds or, to test on whole scenes, by-scene:0.2")
    if (spec.by_scene or split_by == "scene") and len(source.scenes) < 2:
        raise UsageError("a split by scene wants several scenes, and there is one: give another split")
    check_names(spec.names, [one.title for one in source.scenes])


def default_split(dataset: str | None) -> str:
    """Return the split used when none is asked for: folds of own labels, so that all of them train.

    Of benchmark scenes the paper's where it has one, else a tenth of each class.
    """
    if dataset is None:
        return "folds"
    return "paper" if dataset in PAPER_COUNTS else "fraction:0.1"


def new_request(source: SceneSource, options: TrainOptions) -> Request:
    """Put together what is asked for; every usage error is found here, before anything is read or written.

    Raises
    ------
    UsageError
        Options exclude each other, or have values that do not exist.
    """
    source.check()
    split = options.split or default_split(source.dataset)
    spec = parse_spec(split, source.dataset)
    if options.test is not None and (source.dataset is not None or len(source.scenes) > 1):
        raise UsageError("--test is for one scene of your own: leave it out, and score the maps with `sdiff evaluate`")
    _check_scenes(spec, options.split_by, source)
    shares = None if options.prior in (OF_TRAINING, EQUAL) else read_shares(options.prior)
    return Request(
        preset=preset_named(options.preset).changed(**options.changes),
        split=f"file:{whole_path(spec.file)}" if spec.file else split,
        split_by=options.split_by,
        final=_check_final(options.final, split),
        test=None if options.test is None else whole_path(options.test),
        prior=options.prior if shares is None else whole_path(options.prior),
        shares=shares,
        seed=options.seed,
        compare_raw=options.compare_raw,
        mixed_units=options.mixed_units,
        dataset=source.dataset,
        bands=source.bands,
        nodata=source.nodata,
        scaled=source.scaled,
        clouds=source.clouds,
        scenes=tuple(one.whole() for one in source.scenes),
        field=source.fields.field,
        name_field=source.fields.name_field,
        encoding=source.fields.encoding,
        layer_name=source.fields.layer,
        data_dir=None if source.data_dir is None else whole_path(source.data_dir),
        denoiser=None if options.denoiser is None else whole_path(options.denoiser),
    )
