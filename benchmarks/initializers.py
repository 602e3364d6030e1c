"""Drawing weights against peers, and compile time of drawing against depth.

Goals:

- Orthogonal weights no slower than the better of torch's and JAX's. All three call one
  LAPACK QR, so there is little to win. Every method has one BLAS thread: with two this
  would compare OpenBLAS's threads with MKL's.
- ZerO in under 5 % of the time of orthogonal, square (the identity) and widening (the
  Hadamard block: (in, out) = (2048, 4096), torch's (4096, 2048)).
- Batches of orthogonal weights at most a twentieth slower than JAX's in a process
  where nothing is set. Two of its batched factorizations in one program may wait for
  each other for ever, which ours cannot; so here is one, which ends.
- Networks of 100 layers, one of every scheme in one program, compile in at most 1.25
  times the time of those of 10, for equal layers are drawn as one batch.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks._declare import (
    DEFAULT_PROCESS,
    NOBODY,
    Benchmark,
    Call,
    Method,
    Record,
    Rival,
    Task,
    torch_environment,
)

if TYPE_CHECKING:
    import jax
    import numpy as np

    from isometry.networks._mlp import Mlp

# ---- matrices ----


def orthogonal(shape: tuple[int, int], batch: int = 0) -> Call:
    """Draw by ours, compiled; with `batch`, as many at once."""
    from isometry import initializers

    return _compiled(initializers.orthogonal(), shape, batch)


def zer_o(shape: tuple[int, int]) -> Call:
    """Draw by ours, compiled."""
    from isometry import initializers

    return _compiled(initializers.zer_o(), shape)


def jax_orthogonal(shape: tuple[int, int], batch: int = 0) -> Call:
    """Draw by JAX's, compiled as ours is."""
    import jax

    return _compiled(jax.nn.initializers.orthogonal(), shape, batch)


def _compiled(
    init: "Callable[..., jax.Array]", shape: tuple[int, int], batch: int = 0
) -> Call:
    import jax

    key = jax.random.key(0)

    def draw(key: jax.Array) -> jax.Array:
        return init(key, tuple(shape))

    if batch:
        keys = jax.random.split(key, batch)
        draw_all = jax.jit(jax.vmap(draw))
        return lambda: draw_all(keys)
    draw_one = jax.jit(draw)
    return lambda: draw_one(key)


def torch_orthogonal(shape: tuple[int, int]) -> Call:
    """Draw by torch's, in place, on a matrix that is allocated once."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    w = torch.empty(tuple(shape), device=device)
    return lambda: torch.nn.init.orthogonal_(w)


# ---- networks ----


def compilation(which: int) -> Callable[..., Call]:
    """Make a method that compiles one program, anew at each call.

    The program draws a network of depths[which] layers by each of the schemes.
    """

    def make(
        width: int, depths: tuple[int, int], schemes: tuple[str, ...]
    ) -> Callable[[], Callable[[], Record]]:
        import jax

        depth = depths[which]
        nets = _networks(width, depth, schemes)
        key = jax.random.key(0)

        def draw_all(key: jax.Array) -> dict[str, Any]:
            return {name: net.init(key) for name, net in nets.items()}

        def compile_anew() -> Callable[[], Record]:
            jax.clear_caches()
            # Each time another function, so that nothing of the last call is found.
            program = jax.jit(lambda key: draw_all(key)).lower(key).compile()

            def middle_layers() -> Record:
                return {"depth": depth, "middle": _middle_layers(nets, program(key))}

            return middle_layers

        return compile_anew

    return make


def _networks(width: int, depth: int, schemes: tuple[str, ...]) -> "dict[str, Mlp]":
    """Build a square network by each scheme.

    () is all schemes, and all initializers of the catalogue that dense layers can have.
    """
    from isometry import InputError, initializers, networks
    from isometry import schemes as known

    catalogue = [entry.name for entry in initializers.catalogue() if not entry.needs]
    every_name = dict.fromkeys([*known.names(), *catalogue])
    nets = {}
    for name in schemes or every_name:
        try:
            nets[name] = networks.mlp([width] * (depth + 1), scheme=name)
        except InputError:
            # Of all, some are for convolutions alone. One that is asked for must be.
            if schemes:
                raise
    return nets


def _middle_layers(
    nets: "Mapping[str, Mlp]", params: Mapping[str, Any]
) -> "dict[str, jax.Array]":
    middle = {}
    for name, net in nets.items():
        layers = list(net.layers(params[name]))
        middle[name] = layers[net.depth // 2].w
    return middle


# ---- what is right ----


def reference(**parameters: Any) -> Any:
    """Return what is right of matrices, or of networks.

    Returns:
        For matrices the identity, which W Wᵀ is. For networks the middle layers by
        depth, drawn one by one outside the program.
    """
    import numpy as np

    if "shape" in parameters:
        return np.eye(min(parameters["shape"]))
    width = parameters["width"]
    schemes = parameters["schemes"]
    return {depth: _draw_alone(width, depth, schemes) for depth in parameters["depths"]}


def _draw_alone(
    width: int, depth: int, schemes: tuple[str, ...]
) -> "dict[str, jax.Array]":
    """Draw the middle layer of each network with the key that it has there."""
    import jax

    nets = _networks(width, depth, schemes)
    middle = depth // 2
    key = jax.random.split(jax.random.key(0), (depth, 2))[middle, 0]
    weights = {}
    for name, net in nets.items():
        init = net.scheme.initializer(net.plan[middle])
        weights[name] = init(key, (width, width))
    return weights


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """Return the largest deviation of an entry.

    For matrices of |W Wᵀ - I| in float64; for networks of a layer.
    """
    import numpy as np

    if "shape" in parameters:
        return _gram_error(result.astype(np.float64), reference)
    right = reference[int(result["depth"])]
    assert right.keys() == result["middle"].keys()
    deviations = [
        np.abs(w - np.asarray(right[name])).max()
        for name, w in result["middle"].items()
    ]
    return float(max(deviations))


def _gram_error(w: "np.ndarray", identity: "np.ndarray") -> float:
    """Compare the smaller Gram matrix, or each of a batch, with the identity."""
    *_, rows, columns = w.shape
    if rows > columns:
        w = w.swapaxes(-1, -2)
    return float(abs(w @ w.swapaxes(-1, -2) - identity).max())


def tolerance(**parameters: Any) -> float:
    """Bound the rounding in float32.

    For the Gram matrix of a QR it is 10 eps √n; for networks that of arithmetic which
    is fused differently.
    """
    import numpy as np

    eps = float(np.finfo(np.float32).eps)
    if "shape" in parameters:
        return 10 * eps * max(parameters["shape"]) ** 0.5
    return 100 * eps


# ---- tasks ----

ORTHOGONAL = ("isometry orthogonal", "torch orthogonal_", "jax orthogonal")
BATCH = ("isometry orthogonal, nothing set", "jax orthogonal, nothing set")
ZER_O = ("isometry zer_o", "its orthogonal")
COMPILATION = ("deep network", "shallow network")


def _orthogonal(shape: tuple[int, int]) -> Task:
    rows, columns = shape
    few, many = sorted(shape)
    # Householder QR, and as many operations to form Q.
    factorization = 2 * (many * few**2 - few**3 / 3)
    return Task(
        f"orthogonal {rows}x{columns}",
        parameters={"shape": shape},
        goal=1.0,
        flop=2 * factorization,
        gemm=(few, "float32"),
        methods=ORTHOGONAL,
    )


def _batch(batch: int, shape: tuple[int, int]) -> Task:
    rows, columns = shape
    peer = BATCH[1]
    return Task(
        f"{batch} orthogonal {rows}x{columns}",
        parameters={"shape": shape, "batch": batch},
        methods=BATCH,
        against=(NOBODY,),
        rivals=(Rival(peer, goal=0.95),),
    )


def _zer_o(shape: tuple[int, int]) -> Task:
    """Declare a task without a floor: there is no arithmetic worth counting."""
    rows, columns = shape
    return Task(
        f"zer_o {rows}x{columns}",
        parameters={"shape": shape},
        goal=20.0,
        methods=ZER_O,
    )


def _depth(width: int, depths: tuple[int, int], schemes: tuple[str, ...]) -> Task:
    return Task(
        "compile",
        parameters={"width": width, "depths": depths, "schemes": schemes},
        goal=0.8,
        methods=COMPILATION,
    )


BENCHMARK = Benchmark(
    question="Is drawing weights as fast as the hardware allows, and does compile time "
    "stay flat in depth?",
    tasks=(
        _orthogonal((1024, 1024)),
        _orthogonal((4096, 4096)),
        _batch(100, (64, 64)),
        _batch(20, (256, 256)),
        _zer_o((4096, 4096)),
        _zer_o((2048, 4096)),
        _depth(32, (10, 100), ()),
    ),
    smoke=(
        _orthogonal((64, 64)),
        _batch(3, (8, 8)),
        _zer_o((32, 64)),
        _depth(32, (4, 8), ("orthogonal", "zer_o")),
    ),
    methods=(
        Method("isometry orthogonal", orthogonal, ours=True),
        Method(
            "torch orthogonal_",
            torch_orthogonal,
            requires=("torch",),
            environment=torch_environment(threads=1),
        ),
        Method("jax orthogonal", jax_orthogonal),
        Method(BATCH[0], orthogonal, ours=True, environment=DEFAULT_PROCESS),
        Method(BATCH[1], jax_orthogonal, environment=DEFAULT_PROCESS),
        Method("isometry zer_o", zer_o, ours=True),
        Method("its orthogonal", orthogonal),
        Method("deep network", compilation(1), ours=True),
        Method("shallow network", compilation(0)),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
