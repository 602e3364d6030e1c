"""Write torch_laws.json: the laws of torch.nn.init.

Laws that are drawn are measured, laws that are exact are copied. Run it where torch is
installed: `python tests/initializers/torch_laws.py`. It takes a few seconds and is
deterministic for one version of torch, whose name it records.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import torch

PATH = Path(__file__).with_suffix(".json")
DRAWS = 200_000

# Weights in torch's own layout: name, a layer that holds the weight, its kind.
LAYERS = {
    "linear": lambda: torch.nn.Linear(12, 20),
    "conv1d": lambda: torch.nn.Conv1d(6, 8, 3),
    "conv2d": lambda: torch.nn.Conv2d(6, 8, (3, 5)),
    "conv3d": lambda: torch.nn.Conv3d(4, 6, (1, 2, 3)),
    "grouped": lambda: torch.nn.Conv2d(6, 8, 3, groups=2),
    "depthwise": lambda: torch.nn.Conv2d(6, 12, 3, groups=6),
    "transposed": lambda: torch.nn.ConvTranspose2d(6, 8, 3),
    "transposed grouped": lambda: torch.nn.ConvTranspose2d(6, 8, 3, groups=2),
}
NONLINEARITIES = [
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]


def measured(fill, shape):
    """Range, mean and standard deviation of about DRAWS entries, in float64."""
    copies = math.ceil(DRAWS / math.prod(shape))
    values = torch.cat(
        [fill(torch.empty(shape, dtype=torch.float64)).flatten() for _ in range(copies)]
    )
    return {
        "count": values.numel(),
        "min": values.min().item(),
        "max": values.max().item(),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
    }


def layers():
    """Shape, torch's fans, and the support of the default weight and bias."""
    found = {}
    for name, make in LAYERS.items():
        weight = make().weight
        fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(weight)
        drawn = [make() for _ in range(max(1, 20_000 // weight.numel()))]
        found[name] = {
            "shape": list(weight.shape),
            "fan_in": fan_in,
            "fan_out": fan_out,
            "weight_max": max(layer.weight.abs().max().item() for layer in drawn),
            "bias_max": max(layer.bias.abs().max().item() for layer in drawn),
            "bias_count": sum(layer.bias.numel() for layer in drawn),
        }
    return found


def random_laws():
    """(call, shape in torch's layout, what came out)."""
    init, shapes = torch.nn.init, ((20, 12), (8, 6, 3, 5))
    calls = [
        ("uniform", {}, lambda w: init.uniform_(w)),
        ("uniform", {"low": -0.5, "high": 2.0}, lambda w: init.uniform_(w, -0.5, 2.0)),
        ("normal", {}, lambda w: init.normal_(w)),
        ("normal", {"mean": 1.0, "std": 0.3}, lambda w: init.normal_(w, 1.0, 0.3)),
        ("truncated_normal", {}, lambda w: init.trunc_normal_(w)),
        ("truncated_normal", {"std": 0.02}, lambda w: init.trunc_normal_(w, std=0.02)),
        (
            "truncated_normal",
            {"mean": 0.5, "std": 2.0, "lower": 0.0, "upper": 3.0},
            lambda w: init.trunc_normal_(w, 0.5, 2.0, 0.0, 3.0),
        ),
        ("xavier_uniform", {}, lambda w: init.xavier_uniform_(w)),
        ("xavier_uniform", {"gain": 2.0}, lambda w: init.xavier_uniform_(w, 2.0)),
        ("xavier_normal", {}, lambda w: init.xavier_normal_(w)),
        ("kaiming_uniform", {}, lambda w: init.kaiming_uniform_(w)),
        ("kaiming_uniform", {"a": 0.5}, lambda w: init.kaiming_uniform_(w, 0.5)),
        (
            "kaiming_uniform",
            {"mode": "fan_out"},
            lambda w: init.kaiming_uniform_(w, mode="fan_out"),
        ),
        ("kaiming_normal", {}, lambda w: init.kaiming_normal_(w)),
        (
            "kaiming_normal",
            {"a": 0.5, "mode": "fan_out", "nonlinearity": "tanh"},
            lambda w: init.kaiming_normal_(w, 0.5, "fan_out", "tanh"),
        ),
        ("torch_default", {}, lambda w: init.kaiming_uniform_(w, math.sqrt(5))),
    ]
    return [
        {
            "name": name,
            "arguments": arguments,
            "shape": list(shape),
            **measured(fill, shape),
        }
        for name, arguments, fill in calls
        for shape in shapes
    ]


def gains():
    """(nonlinearity, param, gain)."""
    table = [(name, None) for name in NONLINEARITIES]
    table += [
        ("leaky_relu", 0),
        ("leaky_relu", 0.2),
        ("leaky_relu", math.sqrt(5)),
        ("tanh", 0.2),
    ]
    return [
        [name, param, float(torch.nn.init.calculate_gain(name, param))]
        for name, param in table
    ]


def exact():
    """eye and dirac, entry by entry, in torch's layout."""
    eyes = [
        {"shape": list(s), "array": torch.nn.init.eye_(torch.empty(s)).tolist()}
        for s in ((3, 3), (5, 3), (2, 4))
    ]
    cases = [
        ((4, 4, 3), 1),
        ((6, 4, 3), 1),
        ((4, 6, 3), 1),
        ((3, 3, 4), 1),
        ((4, 4, 3, 3), 1),
        ((6, 2, 3, 5), 2),
        ((4, 3, 2, 3), 2),
        ((6, 1, 3), 6),
        ((6, 1, 3), 3),
        ((2, 3, 1, 2, 3), 1),
        ((4, 2, 3, 3, 3), 2),
    ]
    diracs = [
        {
            "shape": list(s),
            "groups": g,
            "array": torch.nn.init.dirac_(torch.empty(s), g).tolist(),
        }
        for s, g in cases
    ]
    return {"eye": eyes, "dirac": diracs}


def sparse():
    """Zeros in each column (an input's connections) and the scale of the rest."""
    found = []
    for shape, sparsity, std in (
        ((10, 7), 0.25, 0.01),
        ((10, 7), 0.0, 0.01),
        ((9, 4), 0.5, 1.0),
        ((200, 300), 0.9, 0.1),
    ):
        w = torch.nn.init.sparse_(
            torch.empty(shape, dtype=torch.float64), sparsity, std
        )
        zeros = sorted({int(n) for n in (w == 0).sum(0)})
        found.append(
            {
                "shape": list(shape),
                "sparsity": sparsity,
                "std": std,
                "zeros_per_column": zeros,
            }
        )
    return found


def orthogonal():
    """Which Gram matrix is the identity, and its gain."""
    found = []
    for shape in ((4, 4), (6, 3), (3, 6), (4, 2, 3), (2, 3, 2)):
        w = torch.nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64), gain=2.0)
        s = torch.linalg.svdvals(w.reshape(shape[0], -1))
        found.append(
            {
                "shape": list(shape),
                "gain": 2.0,
                "smallest": s.min().item(),
                "largest": s.max().item(),
            }
        )
    return found


def main():
    """Collect and write."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        laws = {
            "torch": torch.__version__,
            "layers": layers(),
            "random": random_laws(),
            "gains": gains(),
            "sparse": sparse(),
            "orthogonal": orthogonal(),
            **exact(),
        }
    lines = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in laws.items()
    )
    PATH.write_text(f"{{\n{lines}\n}}\n")
    sys.stdout.write(f"{PATH.name}: torch {torch.__version__}\n")


if __name__ == "__main__":
    main()
