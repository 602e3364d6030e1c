"""Orthogonal weights against torch's and JAX's, ZerO against orthogonal, and compile time against depth.

Goals: orthogonal no slower than the better peer (all three call one LAPACK QR, so there is little to win); every
method has one BLAS thread, for two would make this a comparison of OpenBLAS's and MKL's threads; zer_o in
under 5 % of the time of orthogonal, square (the identity) and widening (the Hadamard block: (in, out) = (2048, 4096),
torch's (4096, 2048)); networks of 100 layers, one of every scheme in one program, compile in at most 1.25 times the
time of those of 10, for equal layers are drawn as one batch.
"""

from collections.abc import Callable
from typing import Any

from benchmarks._declare import Benchmark, Method, Task, torch_environment

Call = Callable[[], Any]


def orthogonal(shape: tuple[int, int]) -> Call:
    """Ours, compiled."""
    from isometry import initializers

    return _jitted(initializers.orthogonal(), shape)


def zer_o(shape: tuple[int, int]) -> Call:
    """Ours, compiled."""
    from isometry import initializers

    return _jitted(initializers.zer_o(), shape)


def jax_orthogonal(shape: tuple[int, int]) -> Call:
    """JAX's, compiled as ours is."""
    import jax

    return _jitted(jax.nn.initializers.orthogonal(), shape)


def _jitted(init: Callable[..., Any], shape: tuple[int, int]) -> Call:
    import jax

    key = jax.random.key(0)
    draw = jax.jit(lambda key: init(key, tuple(shape)))
    return lambda: draw(key)


def torch_orthogonal(shape: tuple[int, int]) -> Call:
    """torch's, in place on a matrix allocated once."""
    import torch  # pyright: ignore[reportMissingImports]

    w = torch.empty(tuple(shape), device="cuda" if torch.cuda.is_available() else "cpu")
    return lambda: torch.nn.init.orthogonal_(w)


def compilation(which: int) -> Callable[..., Call]:
    """Compiling one program that draws a network of depths[which] layers by each of the schemes, anew at each call."""

    def make(width: int, depths: tuple[int, int], schemes: tuple[str, ...]) -> Call:
        import jax

        nets = _networks(width, depths[which], schemes)
        key = jax.random.key(0)

        def compile_anew() -> Call:
            jax.clear_caches()
            program = jax.jit(lambda key: {name: net.init(key) for name, net in nets.items()}).lower(key).compile()
            return lambda: {"depth": depths[which], "middle": _middle_layers(nets, program(key))}

        return compile_anew

    return make


def _networks(width: int, depth: int, schemes: tuple[str, ...]) -> dict[str, Any]:
    """A square network by each scheme; by () all of them, and all of the catalogue that dense layers can have."""
    from isometry import InputError, initializers, networks
    from isometry import schemes as known

    plain = [entry.name for entry in initializers.catalogue() if not entry.needs]
    nets = {}
    for name in schemes or dict.fromkeys([*known.names(), *plain]):
        try:
            nets[name] = networks.mlp([width] * (depth + 1), scheme=name)
        except InputError:
            if schemes:
                raise
    return nets


def _middle_layers(nets: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return {name: list(net.layers(params[name]))[net.depth // 2].w for name, net in nets.items()}


def reference(**parameters: Any) -> Any:
    """The identity that W Wᵀ is, for matrices; the middle layers drawn one by one outside the program, for networks."""
    import numpy as np

    if "shape" in parameters:
        return np.eye(min(parameters["shape"]))
    return {depth: _drawn_alone(parameters["width"], depth, parameters["schemes"]) for depth in parameters["depths"]}


def _drawn_alone(width: int, depth: int, schemes: tuple[str, ...]) -> dict[str, Any]:
    import jax

    nets, middle = _networks(width, depth, schemes), depth // 2
    key = jax.random.split(jax.random.key(0), (depth, 2))[middle, 0]
    return {name: net.scheme.initializer(net.plan[middle])(key, (width, width)) for name, net in nets.items()}


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The largest entry of |W Wᵀ - I| in float64; the largest difference of any entry of a network's layer."""
    import numpy as np

    if "shape" in parameters:
        w = result.astype(np.float64)
        return float(np.abs((w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w) - reference).max())
    alone = reference[int(result["depth"])]
    assert alone.keys() == result["middle"].keys()
    return max(float(np.abs(w - np.asarray(alone[name])).max()) for name, w in result["middle"].items())


def tolerance(**parameters: Any) -> float:
    """10 eps √n for the Gram matrix of a float32 QR; for networks the rounding of differently fused arithmetic."""
    import numpy as np

    eps = float(np.finfo(np.float32).eps)
    return 10 * eps * max(parameters["shape"]) ** 0.5 if "shape" in parameters else 100 * eps


def _matrix(name: str, shape: tuple[int, int], methods: tuple[str, ...], goal: float) -> Task:
    few, many = sorted(shape)
    # Householder QR and forming Q, 2 (m n² - n³/3) each; ZerO has no arithmetic worth counting
    flop = 4 * (many * few**2 - few**3 / 3) if name == "orthogonal" else None
    gemm = (few, "float32") if flop else None
    return Task(f"{name} {shape[0]}x{shape[1]}", {"shape": shape}, goal, flop, gemm, methods)


def _depth(width: int, depths: tuple[int, int], schemes: tuple[str, ...]) -> Task:
    parameters = {"width": width, "depths": depths, "schemes": schemes}
    return Task("compile", parameters, goal=0.8, methods=("deep network", "shallow network"))


_PEERS = ("isometry orthogonal", "torch orthogonal_", "jax orthogonal")
_ZERO = ("isometry zer_o", "its orthogonal")

BENCHMARK = Benchmark(
    question="Is drawing weights as fast as the hardware allows, and does compile time stay flat in depth?",
    tasks=(
        _matrix("orthogonal", (1024, 1024), _PEERS, goal=1.0),
        _matrix("orthogonal", (4096, 4096), _PEERS, goal=1.0),
        _matrix("zer_o", (4096, 4096), _ZERO, goal=20.0),
        _matrix("zer_o", (2048, 4096), _ZERO, goal=20.0),
        _depth(32, (10, 100), ()),
    ),
    smoke=(
        _matrix("orthogonal", (64, 64), _PEERS, goal=1.0),
        _matrix("zer_o", (32, 64), _ZERO, goal=20.0),
        _depth(32, (4, 8), ("orthogonal", "zer_o")),
    ),
    methods=(
        Method("isometry orthogonal", orthogonal, ours=True),
        Method("torch orthogonal_", torch_orthogonal, requires=("torch",), environment=torch_environment(threads=1)),
        Method("jax orthogonal", jax_orthogonal),
        Method("isometry zer_o", zer_o, ours=True),
        Method("its orthogonal", orthogonal),
        Method("deep network", compilation(1), ours=True),
        Method("shallow network", compilation(0)),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
