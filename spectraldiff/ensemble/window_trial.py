"""Whether windows as wide as the attention members' say more than a pixel alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from spectraldiff.ensemble.linear_fit import LinearFit
from spectraldiff.models.settings import LinearMember


@dataclass(frozen=True)
class WindowTrial:
    """What regressions on the bands make of held-out pixels, with the mean of a window and with the pixel alone.

    Attributes
    ----------
    window
        Pixels along its side.
    mean_loss, pixel_loss
        Held-out losses, with the mean of the window and with the pixel alone.
    """

    window: int
    mean_loss: float
    pixel_loss: float

    @classmethod
    def of(cls, fits: Sequence[tuple[LinearMember, LinearFit]], window: int) -> "WindowTrial | None":
        """Return the trial of a window; None where one of the two regressions is no candidate."""
        losses = {
            member.window: fit.loss
            for member, fit in fits
            if (member.method, member.source, member.iterations) == ("logistic", "bands", 0)
        }
        return cls(window, losses[window], losses[1]) if window in losses and 1 in losses else None

    @property
    def misleads(self) -> bool:
        """Whether the pixel alone says as much as the window, or more."""
        return self.mean_loss >= self.pixel_loss

    def line(self) -> str:
        """Say in a sentence why attention members were not trained."""
        wide = f"{self.window} x {self.window} pixels"
        return (
            f"Attention members, which read windows of {wide}, were not trained: on held-out pixels, a regression on "
            f"the bands is no better with the mean of {wide} (loss {self.mean_loss:.3f}) than with one pixel "
            f"({self.pixel_loss:.3f})."
        )
