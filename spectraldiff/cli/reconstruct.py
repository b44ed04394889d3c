"""`sdiff reconstruct`: the reverse process as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from spectraldiff.training.run_model import load_model
from spectraldiff_runtime.cli.options import Json, Overwrite, Quiet, RunsDir, print_json, progress_bar, training_package


def reconstruct(
    run: Annotated[
        Path | None, typer.Option(help="Run folder; the newest finished run by default.", show_default=False)
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    step: Annotated[int, typer.Option(min=1, help="Diffusion step to begin at.")] = 100,
    size: Annotated[int, typer.Option(min=8, help="Pixels along the side of the part of the scene.")] = 64,
    panels: Annotated[int, typer.Option(min=2, help="Pictures in the strip.")] = 7,
    spectra: Annotated[int, typer.Option(min=1, help="Pixels whose spectra are drawn.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; the run's by default.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Noise a part of the training scene to a step, denoise it again, and draw strip and spectra.

    The strip is that of the paper's Figs. 9 and 10, the spectral curves those of Fig. 11.
    """
    from spectraldiff_runtime.atomic import check_output

    with training_package("reconstruct"):
        from spectraldiff.models.reconstruction import check_start, example_spectra
        from spectraldiff.models.reconstruction import reconstruct as run_reverse
        from spectraldiff.report import figures
        from spectraldiff.training.request import Request
        from spectraldiff.training.run_folder import FIGURES, REQUEST, open_run
    folder = open_run(run, runs_dir)
    target = out or folder.path / FIGURES
    strip, curves = target / "reconstruction.png", target / "spectra.png"
    for path in (strip, curves) if target.is_dir() else ():
        check_output(path, overwrite)
    model, _ = load_model(folder)
    request = Request.from_json(folder.read_json(REQUEST))
    check_start(model, step, str(folder.path), fell_back=not request.preset.raw)
    scene = request.load_scene()
    with progress_bar("steps", quiet) as report:
        result = run_reverse(model, scene, step, size, panels, seed, report)
    title = f"{scene.name}: reverse process from step {step}"
    figures.reconstruction_strip(strip, result.frames, result.original, scene.wavelengths, title)
    figures.spectral_curves(
        curves, example_spectra(result, scene, spectra), scene.wavelengths, title, "normalised value"
    )
    facts = {"run": folder.path, "step": step, "noised": result.noise_error, "reconstructed": result.error}
    if json:
        print_json({**facts, "strip": strip, "spectra": curves})
    elif not quiet:
        typer.echo(f"Run '{folder.path}': mean error {result.noise_error:.4f} noised, {result.error:.4f} reconstructed")
        typer.echo(f"Wrote '{strip}' and '{curves}'")
