"""Arguments that factories of the catalogue cannot do without, for tests of all."""

NEEDED = {
    "constant": {"value": 0.5},
    "critical": {"activation": "tanh"},
    "sparse": {"sparsity": 0.5},
    "sparse_orthogonal": {"density": 0.5},
    "torch_default_bias": {"fan_in": 9},
    "variance_scaling": {
        "scale": 2.0,
        "mode": "fan_avg",
        "distribution": "truncated_normal",
    },
}
