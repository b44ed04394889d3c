"""A run folder: everything that a training leaves behind, tensors in safetensors and facts in JSON, no pickle.

`run.json` says what was asked for and is written first, after `data.json` with digests of what is read;
`state.safetensors` holds a training that is not finished; `model.safetensors`, `samples.safetensors` (some tiles of the
scene, for checking an export) and, last of all, `model.json` mark a finished one.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from spectraldiff.models.classifier import Classifier, empty_classifier
from spectraldiff.models.presets import Preset
from spectraldiff_runtime.atomic import output_error
from spectraldiff_runtime.errors import OutputError, RunError
from spectraldiff_runtime.messages import go_on

FORMAT = 3
REQUEST, DATA, FACTS, METRICS = "run.json", "data.json", "model.json", "metrics.json"
STATE, MODEL, SAMPLES = "state.safetensors", "model.safetensors", "samples.safetensors"
TRAIN_PIXELS, TEST_PIXELS, FIGURES = "train_pixels.tif", "test_pixels.tif", "figures"
REPORT = "report.html"
LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """A run folder on disk.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / FACTS).is_file()

    @property
    def begun(self) -> bool:
        """Whether a training began here."""
        return (self.path / REQUEST).is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files; RunError where it is missing or damaged."""
        try:
            value = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            raise RunError(self._missing(name)) from None
        except (OSError, ValueError) as error:
            raise RunError(f"'{self.path / name}' cannot be read ({error}): train again, or restore it") from None
        if not isinstance(value, dict):
            raise RunError(f"'{self.path / name}' holds no JSON object: train again, or restore it")
        return value

    def _missing(self, name: str) -> str:
        if name == FACTS and self.begun:
            return f"the run '{self.path}' is not finished (it has no {FACTS}): go on with `{go_on(self.path)}`"
        if self.finished:
            return f"the run '{self.path}' is damaged (it has no {name}): train again, or restore it"
        return f"'{self.path}' is no run folder (it has no {name}): name a folder that `sdiff train` wrote"

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, whole or not at all."""
        self.write_bytes(name, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        partial = self.path / f"{name}.partial"
        try:
            partial.write_bytes(data)
            partial.replace(self.path / name)
        except OSError as error:
            raise output_error(self.path / name, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Write tensors of any device; return the file's SHA-256."""
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        self.write_bytes(name, data)
        return hashlib.sha256(data).hexdigest()

    def load_tensors(self, name: str, sha256: str | None = None) -> dict[str, Tensor]:
        """Read tensors; RunError where they are missing, damaged, or not those of that SHA-256."""
        try:
            data = (self.path / name).read_bytes()
            if sha256 not in (None, hashlib.sha256(data).hexdigest()):
                raise RunError(
                    f"'{self.path / name}' is damaged (it is not what the training wrote): train again, or restore it"
                )
            return load_tensors(data)
        except FileNotFoundError:
            raise RunError(self._missing(name)) from None
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"'{self.path / name}' cannot be read ({error}): it is damaged; train again, or restore it"
            ) from None

    def load_state(self) -> dict[str, Tensor]:
        """Return the state of an unfinished training; empty where none was saved yet."""
        return self.load_tensors(STATE) if (self.path / STATE).is_file() else {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep this folder for one training; the system gives it free when the process ends, however it does.

        Raises
        ------
        RunError
            Another process holds it.
        OutputError
            The folder cannot be written.
        """
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"another process trains in '{self.path}': wait for its end, or stop it and go on with "
                f"`{go_on(self.path)}`"
            ) from None
        except OSError as error:
            raise output_error(self.path / LOCK, error) from error
        try:
            yield
        finally:
            lock.release()

    def drop_state(self) -> None:
        """Remove the state of a training that is finished."""
        (self.path / STATE).unlink(missing_ok=True)

    def save_model(self, model: Classifier, facts: Mapping[str, Any]) -> None:
        """Write the trained model; the facts come last, mark the run as finished and know the model's SHA-256."""
        sha256 = self.save_tensors(MODEL, model.state_dict())
        shape = {
            "format": FORMAT,
            "preset": model.preset.to_json(),
            "bands": len(model.fill),
            "features": model.pca_components.shape[1],
            "components": model.pca_components.shape[0],
            "smoothing": model.smoothing.steps,
            "beside": model.vit.config.beside,
            "apart": model.vit.config.members != model.preset.members,
            "halo": model.halo,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "sha256": sha256,
        }
        self.write_json(FACTS, {**shape, **facts})

    def load_model(self) -> tuple[Classifier, dict[str, Any]]:
        """Return the trained model in evaluation mode, and the facts beside it.

        Raises
        ------
        RunError
            The run is missing, unfinished, damaged or of another format.
        """
        facts = self.read_json(FACTS)
        if facts.get("format") != FORMAT:
            raise RunError(
                f"the run '{self.path}' has format {facts.get('format')} and this version reads {FORMAT}: train again"
            )
        try:
            preset = Preset.from_json(facts["preset"])
            sizes = (facts[key] for key in ("features", "components", "smoothing", "beside", "apart"))
            model = empty_classifier(preset, facts["bands"], len(facts["classes"]), *sizes)
            model.load_state_dict(self.load_tensors(MODEL, facts.get("sha256")))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"the run '{self.path}' is damaged ({reason}): train again, or restore it") from error
        return model.eval(), facts


def check_new(path: Path) -> None:
    """Raise OutputError where something is at `path` already, so that no new run can go there."""
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> OutputError:
    folder = RunFolder(path)
    if folder.finished:
        return OutputError(f"'{path}' exists and holds a finished run: give --run another name")
    if folder.begun:
        return OutputError(
            f"'{path}' exists and holds an unfinished run: go on with `{go_on(path)}`, or give --run another name"
        )
    return OutputError(f"'{path}' exists and is no run folder: give --run the name of a folder that is not there yet")


def create_run(path: Path) -> RunFolder:
    """Make an empty run folder at `path`; OutputError where something is there already or it cannot be made."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise output_error(path, error) from error
    return RunFolder(path)


def next_run(runs: Path, scene: str, preset: str) -> Path:
    """Return the path of the next run of its kind in `runs`: <scene>-<preset>-001, -002, ..."""
    stem = re.sub(r"[^\w.-]+", "-", f"{scene}-{preset}")
    taken = [int(p.name[-3:]) for p in runs.glob(f"{stem}-[0-9][0-9][0-9]")] if runs.is_dir() else []
    return runs / f"{stem}-{max(taken, default=0) + 1:03d}"


def newest_run(runs: Path) -> RunFolder:
    """Return the run in `runs` that finished last.

    Raises
    ------
    RunError
        There is none.
    """
    folders = [RunFolder(p.parent) for p in runs.glob(f"*/{FACTS}")] if runs.is_dir() else []
    if not folders:
        unfinished = sorted(p.parent for p in runs.glob(f"*/{REQUEST}")) if runs.is_dir() else []
        hint = f" ('{unfinished[-1]}' is not finished: `{go_on(unfinished[-1])}`)" if unfinished else ""
        raise RunError(
            f"there is no finished run in '{runs}'{hint}: train one with `sdiff train`, or name one with --run"
        )
    return max(folders, key=lambda run: (str(run.read_json(FACTS).get("finished", "")), run.path.name))


def open_run(path: Path | None, runs: Path) -> RunFolder:
    """Return the run at `path`, or the newest finished one in `runs` where `path` is None."""
    if path is None:
        return newest_run(runs)
    if not path.is_dir():
        raise RunError(f"there is no run folder '{path}': name a folder that `sdiff train` wrote")
    return RunFolder(path)
