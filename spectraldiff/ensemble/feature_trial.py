"""Whether members that read the diffusion features are worth the time that the features cost every map."""

from dataclasses import dataclass

from spectraldiff.models.settings import LinearMember

LEAST_GAIN = 0.02  # of the held-out loss: the U-Net is four fifths of the time of a model without attention members


@dataclass(frozen=True)
class FeatureTrial:
    """What the linear members make of held-out pixels, with those among them that need the features and without.

    Attributes
    ----------
    features_loss, bands_loss
        Held-out losses of all members, and of those that read the bands alone.
    """

    features_loss: float
    bands_loss: float

    @property
    def pays(self) -> bool:
        """Whether the features lower the loss by `LEAST_GAIN` at least."""
        return self.features_loss <= (1 - LEAST_GAIN) * self.bands_loss

    def line(self) -> str:
        """Say in a sentence why no member reads the features."""
        return (
            f"No member reads the diffusion features: the loss of the linear members on held-out pixels is "
            f"{self.features_loss:.3f} with them and {self.bands_loss:.3f} without, and they cost every map time."
        )


def needs_features(member: LinearMember) -> bool:
    """Return whether a member reads the features, or is smoothed: they guide the smoothing."""
    return member.source == "features" or member.iterations > 0
