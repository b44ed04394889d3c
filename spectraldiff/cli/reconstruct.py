"""`sdiff reconstruct`: the reverse process as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from spectraldiff.options import RECONSTRUCT, RUNS
from spectraldiff_runtime.cli.options import Json, Overwrite, Quiet, RunsDir, print_json, tell, training_package


def reconstruct(
    run: Annotated[
        Path | None, typer.Option(help="Run folder; the newest finished run by default.", show_default=False)
    ] = None,
    runs_dir: RunsDir = RUNS,
    step: Annotated[int, typer.Option(min=1, help="Diffusion step to begin at.")] = RECONSTRUCT.step,
    size: Annotated[
        int, typer.Option(min=8, help="Pixels along the side of the part of the scene.")
    ] = RECONSTRUCT.size,
    panels: Annotated[int, typer.Option(min=2, help="Pictures in the strip.")] = RECONSTRUCT.panels,
    spectra: Annotated[int, typer.Option(min=1, help="Pixels whose spectra are drawn.")] = RECONSTRUCT.spectra,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seeds the noise.")] = RECONSTRUCT.seed,
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
    with training_package("reconstruct"):
        from spectraldiff.api.runs import reconstruct as draw
    found = draw(
        run,
        step=step,
        size=size,
        panels=panels,
        spectra=spectra,
        seed=seed,
        out=out,
        overwrite=overwrite,
        runs_dir=runs_dir,
        progress=not quiet,
    )
    if json:
        print_json(vars(found))
    elif not quiet:
        errors = f"mean error {found.noised:.4f} noised, {found.reconstructed:.4f} reconstructed"
        tell(f"Run '{found.run}': {errors}")
        tell(f"Wrote '{found.strip}' and '{found.spectra}'")
