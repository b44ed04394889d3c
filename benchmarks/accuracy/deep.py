"""Training and maps of the deep methods: one short, seeded loop over windows or graphs of pixels."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy import graphs
from benchmarks.accuracy.networks import MiniGCN, PlaneCNN, SpectralFormer, SpectrumCNN, VolumeCNN
from benchmarks.accuracy.problem import Context, Problem, Report
from benchmarks.accuracy.store import Outcome
from spectraldiff.models.padding import mirrored


@dataclass(frozen=True)
class Recipe:
    """How a deep method is trained: AdamW, one-cycle cosine (a tenth of the steps to rise), cross-entropy.

    Attributes
    ----------
    window
        Pixels along the side of the window around a pixel, odd.
    epochs, batch, lr, weight_decay
        Passes over the training pixels, pixels a step, highest learning rate, decoupled weight decay.
    graph
        Whether a batch is a graph of pixels instead of windows.
    """

    window: int
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    graph: bool = False


# Windows of 7 x 7 are this paper's for SpectralFormer; 9 x 9 for the CNNs is from the first author's logs. All bands
# are read, without PCA (assumed). Hong et al. (2020, 2021) give batches of 32 to 64 and learning rates of 5e-4 to 1e-3
# with Adam; SpectralFormer's weight decay is theirs. They train for hundreds of epochs and lower the rate in steps.
# Here a one-cycle schedule replaces this, with as many epochs as two CPU cores allow (assumed).
RECIPES: Mapping[str, Recipe] = {
    "cnn1d": Recipe(window=1, epochs=200, batch=64, lr=1e-3, weight_decay=1e-3),
    "cnn2d": Recipe(window=9, epochs=200, batch=64, lr=1e-3, weight_decay=1e-3),
    "cnn3d": Recipe(window=9, epochs=200, batch=64, lr=1e-3, weight_decay=1e-3),
    "minigcn": Recipe(window=1, epochs=300, batch=128, lr=1e-3, weight_decay=1e-3, graph=True),
    "spectralformer": Recipe(window=7, epochs=200, batch=32, lr=1e-3, weight_decay=5e-3),
}
NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "cnn1d": SpectrumCNN,
    "cnn2d": PlaneCNN,
    "cnn3d": VolumeCNN,
    "minigcn": MiniGCN,
    "spectralformer": SpectralFormer,
}
WARMUP = 0.1
PART = 512  # windows classified at once
GRAPH_PART = 4096  # pixels of one graph in mapping

# From indices of pixels to the network's inputs for them.
Inputs = Callable[[Tensor], tuple[Tensor, ...]]
Mask = NDArray[np.bool_]


def settings_of(name: str) -> dict[str, object]:
    """Return all settings that determine the result of a deep method, except scene and split."""
    recipe = RECIPES[name]
    more = graphs.SETTINGS if recipe.graph else {"bands": "mean 0, deviation 1"}
    return {**asdict(recipe), "warmup": WARMUP, **more}


def fit_deep(name: str, problem: Problem, context: Context) -> Outcome:
    """Train one of `NETWORKS` on the training pixels and map the scene."""
    recipe, device = RECIPES[name], context.compute.device
    torch.manual_seed(problem.seed)
    network = NETWORKS[name](problem.scene.cube.shape[2], len(problem.scene.classes)).to(device)
    labels = torch.from_numpy(problem.labels.astype(np.int64) - 1).to(device)
    inputs = graph_inputs if recipe.graph else window_inputs
    started = time.perf_counter()
    train(network, recipe, inputs(problem, problem.split.train, recipe, context), labels, problem.seed, context)
    trained = time.perf_counter()
    valid = problem.scene.valid
    parts = torch.split(torch.arange(int(valid.sum())), GRAPH_PART if recipe.graph else PART)
    classes = classify(network, inputs(problem, valid, recipe, context), parts, context.report)
    predicted = problem.map_of(classes.cpu().numpy() + 1)
    return Outcome(predicted, trained - started, time.perf_counter() - trained, {})


def window_inputs(problem: Problem, mask: Mask, recipe: Recipe, context: Context) -> Inputs:
    """Return the function from indices of pixels of `mask` to their windows, (n, w, w, B).

    Bands are standardised (assumed): otherwise filters shared by all bands would mostly respond to the mean spectrum.
    """
    device = context.compute.device
    cube = torch.from_numpy(problem.standardised).permute(2, 0, 1)
    padded = mirrored(cube, recipe.window // 2).permute(1, 2, 0).contiguous().to(device)
    places = torch.from_numpy(np.argwhere(mask)).to(device)
    offsets = torch.arange(recipe.window, device=device)

    def windows(chosen: Tensor) -> tuple[Tensor, ...]:
        rows, columns = (places[chosen, axis, None] + offsets for axis in (0, 1))
        return (padded[rows[:, :, None], columns[:, None, :]],)

    return windows


def graph_inputs(problem: Problem, mask: Mask, recipe: Recipe, context: Context) -> Inputs:
    """Return the function from indices of pixels of `mask` to their spectra and the adjacency of their graph."""
    device, spectra = context.compute.device, problem.pixels[mask]
    graph = graphs.similarities(spectra, GRAPH_PART)

    def batch(chosen: Tensor) -> tuple[Tensor, ...]:
        numbers = chosen.cpu().numpy()
        adjacency = graphs.normalised(graph[numbers][:, numbers].toarray())
        return torch.from_numpy(spectra[numbers]).to(device), torch.from_numpy(adjacency).to(device)

    return batch


def train(network: nn.Module, recipe: Recipe, inputs: Inputs, labels: Tensor, seed: int, context: Context) -> None:
    """Train a network in place, and leave it in evaluation mode."""
    optimiser = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(labels) / recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=recipe.epochs * steps, pct_start=WARMUP, cycle_momentum=False
    )
    network.train()
    for epoch in range(recipe.epochs):
        # Equal shares: batch norm cannot learn from a last batch of one pixel.
        for chosen in torch.randperm(len(labels), generator=generator).to(labels.device).tensor_split(steps):
            with context.compute.autocast():
                scores = network(*inputs(chosen))
            optimiser.zero_grad()
            F.cross_entropy(scores.float(), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        context.report("training", epoch + 1, recipe.epochs)
    network.eval()


@torch.no_grad()
def classify(network: nn.Module, inputs: Inputs, parts: Sequence[Tensor], report: Report) -> Tensor:
    """Return the class, from 0, of the pixels in `parts`, (n,)."""
    classes = []
    for done, part in enumerate(parts, start=1):
        classes.append(network(*inputs(part)).argmax(1))
        report("mapping", done, len(parts))
    return torch.cat(classes)
