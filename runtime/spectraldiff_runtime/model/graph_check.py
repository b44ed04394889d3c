"""The graph in a model file, looked at before ONNX Runtime gets it, and what a run of it gave."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from spectraldiff_runtime.classes import HIGHEST_UINT8
from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import fields

# Numbers of protobuf fields, see onnx.proto.
GRAPH, TRAINING, FUNCTION = 7, 20, 25  # of a model
NODE, INITIALIZER, SPARSE = 1, 5, 15  # of a graph
ATTRIBUTE, OPERATOR, DOMAIN = 5, 4, 7  # of a node
TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS, SPARSE_TENSOR, SPARSE_TENSORS = 5, 6, 10, 11, 22, 23  # of an attribute
EXTERNAL = 13  # of a tensor

# The operators of ONNX itself, and the one that int8 models have in addition.
DOMAINS, MICROSOFT = ("", "ai.onnx"), ("com.microsoft", "QLinearAdd")
# The only operator with a graph inside that is exported: it ends with the rows of its input. A Loop may go on for ever.
LOOP = "Scan"
# The same scene must give the same map.
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

# float16 rounds to three digits, and sums of softmax with it.
ROUNDING = 0.01


class OutputRule(NamedTuple):
    """What an output holds: (N, h, w) of a type, or (N, K, h, w), and its least and largest value."""

    kind: str
    by_class: bool
    least: float
    most: float
    required: bool = True


def output_rules(card: ModelCard) -> Mapping[str, OutputRule]:
    """Return what each output of the model of this card holds, by name."""
    count = len(card.classes)
    return {
        "classes": OutputRule("uint8" if count <= HIGHEST_UINT8 else "int32", False, 1, count),
        "confidence": OutputRule("float", False, 0, 1 + ROUNDING),
        "probabilities": OutputRule("float", True, 0, 1 + ROUNDING),
        "outside": OutputRule("uint8", False, 0, 100, required=False),
    }


def check_operators(data: bytes, name: str) -> None:
    """Refuse a graph that may run for ever, that reads other files, or that is not of ONNX's own operators.

    Raises
    ------
    ModelFileError
    """
    try:
        parts = list(fields(data))
        if any(number in (FUNCTION, TRAINING) for number, _ in parts):
            raise ModelFileError(f"{name} has functions or training steps in its graph: {_WANTED}")
        for number, graph in parts:
            if number == GRAPH:
                _check_graph(graph, name, inside=False)
    except (KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        raise ModelFileError(f"{name} holds no ONNX model ({error}): export it again") from error


_WANTED = "wanted a graph as `sdiff export` writes it; export it again"


def _check_graph(graph: memoryview, name: str, *, inside: bool) -> None:
    for number, value in fields(graph):
        if number == SPARSE:
            raise ModelFileError(f"{name} has sparse weights: {_WANTED}")
        if number == INITIALIZER:
            _check_tensor(value, name)
        if number == NODE:
            _check_node(value, name, inside)


def _check_tensor(tensor: memoryview, name: str) -> None:
    if any(number == EXTERNAL for number, _ in fields(tensor)):
        raise ModelFileError(f"{name} keeps weights in other files: wanted a file that holds them; export it again")


def _check_node(node: memoryview, name: str, inside: bool) -> None:
    parts = list(fields(node))
    texts = {number: bytes(value).decode() for number, value in parts if number in (OPERATOR, DOMAIN)}
    operator, domain = texts.get(OPERATOR, ""), texts.get(DOMAIN, "")
    if domain not in DOMAINS and (domain, operator) != MICROSOFT:
        raise ModelFileError(f"{name} has the operator '{operator}' of '{domain}' in its graph: {_WANTED}")
    if operator in RANDOM:
        raise ModelFileError(f"{name} has random numbers ({operator}) in its graph: {_WANTED}")
    for number, value in (part for at, attribute in parts if at == ATTRIBUTE for part in fields(attribute)):
        if number in (SUBGRAPH, SUBGRAPHS):
            if operator != LOOP or inside:
                raise ModelFileError(f"{name} has a graph inside its graph ('{operator}'): {_WANTED}")
            _check_graph(value, name, inside=True)
        if number in (TENSOR, TENSORS):
            _check_tensor(value, name)
        if number in (SPARSE_TENSOR, SPARSE_TENSORS):
            raise ModelFileError(f"{name} has sparse weights: {_WANTED}")


def check_signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any], card: ModelCard, name: str) -> bool:
    """Compare the types and shapes that a graph declares with the card; return whether it takes rectangles.

    Parameters
    ----------
    inputs, outputs
        Type and shape, as ONNX Runtime gives them, by name.

    Raises
    ------
    ModelFileError
    """
    rules = output_rules(card)
    required = [key for key, rule in rules.items() if rule.required]
    if set(inputs) != {"tile"} or not set(required) <= set(outputs):
        found = f"{', '.join(inputs)} -> {', '.join(outputs)}"
        raise ModelFileError(f"{name} computes {found}: wanted tile -> {', '.join(required)}; export it again")
    kinds = {"tile": "float", **{key: rule.kind for key, rule in rules.items() if key in outputs}}
    found_kinds = {key: outputs.get(key, inputs.get(key))[0] for key in kinds}
    if found_kinds != {key: f"tensor({kind})" for key, kind in kinds.items()}:
        raise ModelFileError(f"{name} has values of types {', '.join(found_kinds.values())}: export it again")
    shape = inputs["tile"][1]
    declared = outputs["probabilities"][1]
    classes = declared[1] if len(declared) == 4 else declared
    bands_agree = len(shape) == 4 and shape[1] == card.bands
    if not bands_agree or (classes != len(card.classes) and (isinstance(classes, int | list))):
        raise ModelFileError(
            f"{name} takes tiles {shape} and gives {classes} classes, but its card says {card.bands} bands "
            f"and {len(card.classes)} classes: export it again"
        )
    return bool(shape[2] != shape[3])


def check_results(results: Mapping[str, NDArray[Any]], tiles: tuple[int, ...], card: ModelCard, name: str) -> None:
    """Check what a run gave for tiles of shape (N, B, H, W): shapes (N, ..., H - 2 halo, W - 2 halo), types and ranges.

    Scores that are no numbers pass: scenes with values beyond any measurement give them, and get no class there.

    Raises
    ------
    ModelFileError
        The graph does not do what the card says.
    """
    rules, halo = output_rules(card), card.halo
    inner = tiles[2] - 2 * halo, tiles[3] - 2 * halo
    for key, values in results.items():
        rule = rules[key]
        wanted = (tiles[0], len(card.classes), *inner) if rule.by_class else (tiles[0], *inner)
        if values.shape != wanted:
            raise ModelFileError(
                f"{name} gives '{key}' of shape {_sizes(values.shape)} for tiles of {_sizes(tiles)}: its card, with a "
                f"halo of {halo}, wants {_sizes(wanted)}; export it again"
            )
        wrong = _beyond(values, rule)
        if wrong is not None:
            raise ModelFileError(
                f"{name} gives {wrong:g} as '{key}': its card wants {rule.least:g} to {int(rule.most):g}; "
                "export it again"
            )


def _beyond(values: NDArray[Any], rule: OutputRule) -> float | None:
    """Return a value that the rule does not allow; None where there is none."""
    if values.size == 0:
        return None
    for wrong in (values < rule.least, values > rule.most):  # False for NaN
        if wrong.any():
            return float(values[wrong][0])
    return None


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
