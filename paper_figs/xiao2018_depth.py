"""Delta-orthogonal convolutions carry all patterns to any depth, Gaussian ones do not.

Xiao et al. (2018), arXiv:1806.05393; scaled down: images are rings of pixels, tanh.

Left: depth scales of patterns over a ring of 8 positions, σ_b² = 0.05. Two inputs that
differ a little at one position are followed through two layers; the Fourier modes of
their squared difference over positions fall by χ A(f) a layer. With three taps of equal
variance only the constant mode lives on at the critical line; with all variance at the
centre every mode does. Middle: how far singular values spread. Circles: the
interquartile range of ln s at q* = 1/L, extrapolated from two widths by 2 m(2c) − m(c),
and the law of wide networks. Gaussian kernels, linear: that of the Lyapunov exponents
at each frequency, by QR, and of the known ones, ½[ψ((c − i + 1)/2) + ln(2/c)] where the
kernel is real and ½[ψ(c − i + 1) − ln c] where it is complex, times L. One direction at
each position is outside the law: the signal's own. Lengths follow the variance map V,
so along it s = V'(q*)^L, e^−2 of the others, however wide the network (triangles: how
far ln s lies below the median). Right: accuracy on the digits after 400 steps of Adam,
rows of 8 pixels as channels of a ring. The paper trains 10,000 layers on MNIST and
CIFAR-10; two cores stop at 256 layers, far from convergence. With 16 channels that is a
depth of 16 widths, and the rate, 0.02/L, is not tuned for each kind: no more is claimed
than that at this width and rate delta-orthogonal networks learn and Gaussian ones do
not. Wider ones, or ones at another rate, may.
"""

import functools
import math
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Complex, Float
from scipy import optimize, special, stats

import isometry
from isometry import linalg, networks, theory
from isometry._internal.types import Key
from isometry.sweeps import runs
from paper_figs import _style
from paper_figs._check import Compared, largest, least, settled, t_bound, within
from paper_figs._ensembles import three_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "channels": 256,
        "draws": 60,
        "square_w": (0.8, 1.0, 1.2, 1.4, 1.6),
        "widths": (16, 32),
        "seeds": 8,
        "depths": (4, 10, 32, 100, 316, 1000),
        "trained": (16, 64, 256),
        "trained_channels": 16,
        "steps": 400,
        "training_seeds": 2,
        "exponents": 1000,
    },
    "smoke": {
        "channels": 128,
        "draws": 40,
        "square_w": (1.4,),
        "widths": (8, 16),
        "seeds": 8,
        "depths": (4, 128),
        "trained": (64,),
        "trained_channels": 8,
        "steps": 100,
        "training_seeds": 1,
        "exponents": 1000,
    },
}

ACTIVATION = "tanh"
SIGMA_B = 0.05**0.5
RING = 8
KERNELS = {"uniform": "gaussian", "delta": "delta_orthogonal"}
# The variances of the taps.
TAPS = {
    "uniform": np.full(3, 1 / 3),
    "delta": np.array([0.0, 1.0, 0.0]),
}
# Modes of the ring that differ; the others mirror them.
MODES = np.arange(RING // 2 + 1)
LAYERS = 2
# One less the cosine of two inputs where they differ. Ten times as much would bend the
# map of correlations by a percent; a hundredth would meet rounding in float32.
OFF = 1e-3
QUARTILES = (0.25, 0.5, 0.75)
# Positions of the ring whose spectrum is taken. With as many taps, real and imaginary
# part of a kernel at the frequency 2π/3 have equal variances; on a ring of 4 they have
# not, and the exponents there are others.
SMALL_RING = 3
# Accuracies that tell learning from guessing: the most frequent digit is a tenth.
LEARNED = 0.3
CHANCE = 0.25
CHANCE_SHARE = 0.102
# Adam's rate times depth: steps of all layers add up in the output. It is the same for
# both kinds of kernels, so that the one may suit it better than the other.
RATE = 0.02


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure responses by mode, spectra over depth, exponents, and accuracies.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `response` over (kernel, square_w, mode, draw), and `law_factor`, its
        expectation; `spread` and `own` over (width, depth, seed): the interquartile
        range of ln s and how far the signal's own direction lies below the median;
        `exponent` over (frequency, index, seed); and `accuracy`.
    """
    size = PRESETS[preset]
    square_w = list(size["square_w"])
    keys = jax.random.split(key, 3)
    response, factors, fine_factors = [], [], []
    fine = np.linspace(0.6, 1.75, 60)
    for kernel in KERNELS:
        at_each = [_response(kernel, value, size, key=keys[0]) for value in square_w]
        response.append(at_each)
        factors.append([_factors(kernel, value) for value in square_w])
        fine_factors.append([_factors(kernel, value) for value in fine])
    depths = list(size["depths"])
    spectra = []
    for width in size["widths"]:
        over_depth = [
            _delta_orthogonal(width, depth, size, key=keys[1]) for depth in depths
        ]
        spectra.append(over_depth)
    predicted = [_predicted(depth) for depth in depths]
    exponents = _exponents(size, key=keys[2])
    accuracies = [
        [_accuracies(scheme, depth, size) for depth in size["trained"]]
        for scheme in KERNELS.values()
    ]
    return xarray.Dataset(
        {
            "response": (("kernel", "square_w", "mode", "draw"), response),
            "law_factor": (("kernel", "square_w", "mode"), factors),
            "law_fine": (("kernel", "fine", "mode"), fine_factors),
            "spectrum": (("spectrum_width", "depth", "statistic", "seed"), spectra),
            "law_spectrum": (("depth", "statistic"), predicted),
            "law_critical": _critical_square_w(),
            "exponent": (("seed", "frequency", "index"), exponents),
            "accuracy": (("scheme", "trained", "training_seed"), accuracies),
        },
        {
            "kernel": list(KERNELS),
            "square_w": square_w,
            "mode": MODES,
            "fine": fine,
            "spectrum_width": list(size["widths"]),
            "depth": depths,
            "statistic": ["spread", "own"],
            "scheme": list(KERNELS.values()),
            "trained": list(size["trained"]),
        },
        {
            "channels": size["channels"],
            "lyapunov_width": size["widths"][0],
            "lyapunov_depth": size["exponents"],
        },
    )


def _factors(kernel: str, square_w: float) -> Float[np.ndarray, " modes"]:
    """Return by how much theory says that a layer multiplies each mode."""
    modes = theory.conv_modes(
        ACTIVATION,
        square_w**0.5,
        SIGMA_B,
        kernel=TAPS[kernel],
        size=(RING,),
    )
    return np.real(modes.eigenvalues)[MODES]


def _critical_square_w() -> float:
    """Return the critical σ_w² at `SIGMA_B`."""

    def excess(q: float) -> float:
        return theory.critical_at(ACTIVATION, q).sigma_b - SIGMA_B

    q = cast(float, optimize.brentq(excess, 1e-3, b=2.0))
    return theory.critical_at(ACTIVATION, q).sigma_w ** 2


def _response(
    kernel: str, square_w: float, size: dict, *, key: Key
) -> Float[np.ndarray, "modes draws"]:
    """Measure each mode of a squared difference behind `LAYERS` layers, over before.

    Two inputs differ at one position of the ring, which is a sum of all modes alike.
    """
    sigma_w = square_w**0.5
    q = theory.q_fixed_point(ACTIVATION, sigma_w, SIGMA_B).value
    channels = size["channels"]
    net = networks.cnn(
        [channels] * (LAYERS + 1),
        (RING,),
        activation=ACTIVATION,
        scheme=KERNELS[kernel],
        sigma_w=sigma_w,
        sigma_b=SIGMA_B,
    )

    size_of_z = math.sqrt(q)
    cosine = 1 - OFF
    sine = math.sqrt(1 - cosine**2)

    def of_draw(key: Key) -> Float[Array, " modes"]:
        key_net, key_z, key_other = jax.random.split(key, 3)
        z = size_of_z * jax.random.normal(key_z, (RING, channels))
        other = size_of_z * jax.random.normal(key_other, (channels,))
        turned = cosine * z[0] + sine * other
        z_near = z.at[0].set(turned)
        params = net.init(key_net)
        # The first layer reads its input as it is, so the nonlinearity comes here.
        end = net(params, jnp.tanh(z))
        end_near = net(params, jnp.tanh(z_near))
        before = jnp.mean((z - z_near) ** 2, axis=-1)
        after = jnp.mean((end - end_near) ** 2, axis=-1)
        return jnp.fft.rfft(after).real / before[0]

    keys = jax.random.split(key, size["draws"])
    # One network at a time: a batch of kernels is slow on CPUs.
    for_all = jax.jit(functools.partial(jax.lax.map, of_draw))
    return np.asarray(for_all(keys)).T


def _critical(depth: int) -> theory.CriticalPoint:
    """Return the critical point whose curvature does not add up over the depth."""
    return theory.critical_at(ACTIVATION, 1 / depth)


def _deep(width: int, depth: int) -> networks.Network:
    """Return a delta-orthogonal network with so many layers between its ends."""
    point = _critical(depth)
    return networks.cnn(
        # A layer in front and one behind do not belong to the span.
        [width] * (depth + 3),
        (SMALL_RING,),
        activation=ACTIVATION,
        scheme="delta_orthogonal",
        sigma_w=point.sigma_w,
        sigma_b=point.sigma_b,
    )


def _delta_orthogonal(
    width: int, depth: int, size: dict, *, key: Key
) -> Float[np.ndarray, "statistics seeds"]:
    """Measure the interquartile range of ln s, and the lowest below the median."""
    point = _critical(depth)
    key_of_depth = jax.random.fold_in(key, depth)
    key_net, key_x = jax.random.split(key_of_depth)
    # Every position starts at the fixed point; else each would have its own law.
    q_star = 1 / depth
    q_input = (q_star - point.sigma_b**2) / point.sigma_w**2
    x = jax.random.normal(key_x, (SMALL_RING, width))
    squares = jnp.mean(x**2, axis=-1, keepdims=True)
    x = x * jnp.sqrt(q_input / squares)
    sp = isometry.ensemble(
        _deep(width, depth),
        jax.random.split(key_net, size["seeds"]),
        x[None],
        method="dense",
        span="hidden",
    )
    log_s = np.asarray(sp.log_values)[:, 0]
    low, middle, high = np.quantile(log_s, QUARTILES, axis=-1)
    # One value for each position: the direction of its signal.
    ascending = np.sort(log_s, axis=-1)
    own = ascending[:, :SMALL_RING].mean(axis=-1)
    return np.stack([high - low, own - middle])


def _predicted(depth: int) -> tuple[float, float]:
    """Return both statistics of wide networks."""
    point = _critical(depth)
    law = theory.jacobian_law(
        ACTIVATION, weights="orthogonal", depth=depth, q=1 / depth
    )
    low, middle, high = np.asarray(law.quantile(QUARTILES, "log_s"))
    # The length of a signal follows the variance map, and so does its derivative along
    # the signal itself.
    fixed = theory.q_fixed_point(ACTIVATION, point.sigma_w, point.sigma_b)
    own = depth * np.log(fixed.slope)
    return float(high - low), float(own - middle)


def _exponents(size: dict, *, key: Key) -> Float[np.ndarray, "seeds frequencies index"]:
    """Measure the Lyapunov exponents of Gaussian kernels at frequencies of a ring."""
    width, depth = size["widths"][0], size["exponents"]
    net = networks.cnn(
        [width] * (depth + 3),
        (SMALL_RING,),
        activation="linear",
        scheme="gaussian",
        sigma_w=1.0,
        bias=False,
    )
    offsets = np.arange(3) - 1
    # The frequencies 0 and 2π/3; the third of a ring of 3 mirrors the second.
    angles = np.array([0.0, 2 * np.pi / SMALL_RING])
    phases = np.outer(angles, offsets)
    waves = np.exp(1j * phases)
    found = []
    for seed_key in jax.random.split(key, size["seeds"]):
        # The stack of all layers but the first and the last.
        stack = net.init(seed_key)["layers"][1]
        taps = np.asarray(stack["w"], np.float64)
        at_frequencies = np.einsum("ft,ltio->floi", waves, taps)
        found.append([_exponents_of(factors) for factors in at_frequencies])
    return np.array(found)


def _exponents_of(
    factors: Complex[np.ndarray, "layers width width"],
) -> Float[np.ndarray, " index"]:
    """Return the Lyapunov exponents of complex matrices."""
    # Real and imaginary parts alternate, so that the pivots of QR come in equal pairs.
    unit = np.array([[0.0, -1.0], [1.0, 0.0]])
    real = np.einsum("loi,ab->loaib", np.real(factors), np.eye(2))
    imaginary = np.einsum("loi,ab->loaib", np.imag(factors), unit)
    pairs = real + imaginary
    num_layers, width, _ = factors.shape
    with jax.enable_x64(True):
        exponents = linalg.lyapunov_exponents(
            pairs.reshape(num_layers, 2 * width, 2 * width)
        )
    return np.asarray(exponents)[::2]


def _known_exponents(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the exponents over (frequency, index), and the variance of one layer's."""
    left = width - np.arange(width)
    log_width = math.log(width)
    # ln of a sum of squares: chi-squared with `left` degrees of freedom for real
    # entries, with twice as many for complex ones.
    real = special.digamma(left / 2) + math.log(2) - log_width
    both = special.digamma(left) - log_width
    real_variance = special.polygamma(1, left / 2)
    both_variance = special.polygamma(1, left)
    # ln s is half of it.
    exponents = np.stack([real, both]) / 2
    variances = np.stack([real_variance, both_variance]) / 4
    return exponents, variances


def _accuracies(scheme: str, depth: int, size: dict) -> list[float]:
    """Train networks on the digits; return their accuracies on the training set."""
    point = _critical(depth)

    def build(settings: object) -> networks.Network:
        del settings
        return networks.cnn(
            # Rows of 8 pixels are the channels of 8 positions.
            [8] + [size["trained_channels"]] * depth,
            (RING,),
            activation=ACTIVATION,
            scheme=scheme,
            sigma_w=point.sigma_w,
            sigma_b=point.sigma_b,
            head=10,
        )

    found = []
    for seed in range(size["training_seeds"]):
        trained = runs.train(
            {"learning_rate": RATE / depth},
            jax.random.key(seed),
            build=build,
            optimizer="adam",
            steps=size["steps"],
            batch=32,
            input_q=1 / depth,
        )
        _, accuracy, _ = trained["train_accuracy"]
        found.append(float(accuracy))
    return found


def _standard_error(values: xarray.DataArray, dim: str) -> xarray.DataArray:
    """Return the standard error of means over a dimension."""
    root = math.sqrt(values.sizes[dim])
    return values.std(dim, ddof=1) / root


def _extrapolated(data: xarray.Dataset) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Return the statistics of spectra without terms in 1/c, and their errors."""
    narrow, wide = data.spectrum.mean("seed")
    narrow_error, wide_error = _standard_error(data.spectrum, "seed")
    # The second width is twice the first.
    error = np.sqrt(narrow_error**2 + 4 * wide_error**2)
    return 2 * wide - narrow, error


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare factors of modes, spectra, exponents and accuracies with the theory.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    deepest = data.accuracy.isel(trained=-1)
    accuracies = [
        Compared(
            f"delta-orthogonal, {int(deepest.trained)} layers: least accuracy",
            least(deepest.sel(scheme="delta_orthogonal")),
            low=LEARNED,
        ),
        Compared(
            "Gaussian, the same layers and rate: largest accuracy",
            largest(deepest.sel(scheme="gaussian")),
            high=CHANCE,
        ),
    ]
    rows = [*_modes(data), *_spectra(data), *_gaussian(data)]
    return settled([*rows, *accuracies])


def _modes(data: xarray.Dataset) -> list[Compared]:
    """Compare responses with the factors of all modes."""
    expected = data.law_factor**LAYERS
    bound = t_bound(expected.size, data.sizes["draw"])
    # Networks of finite width are off by O(1/N) a layer.
    interval = bound * _standard_error(data.response, "draw")
    interval = interval + LAYERS * 2 / data.attrs["channels"]
    gap = abs(data.response.mean("draw") - expected) / interval
    rows = []
    for kernel in KERNELS:
        worst = largest(gap.sel(kernel=kernel))
        rows.append(
            Compared(f"{kernel}: modes, largest gap over its interval", worst, high=1.0)
        )
    # On the critical line χ = 1 is left out of the factor.
    critical = theory.critical_at(ACTIVATION, 1.0)
    modes = theory.conv_modes(
        ACTIVATION,
        critical.sigma_w,
        critical.sigma_b,
        kernel=3,
        size=(RING,),
    )
    rows.append(
        within(
            "critical, uniform: depth scale of mode 2 of 8",
            float(modes.depth_scales[2]),
            1 / math.log(3),
            tolerance=1e-9,
        )
    )
    return rows


def _spectra(data: xarray.Dataset) -> list[Compared]:
    """Compare spreads, and the signal's own direction, with those of wide networks."""
    found, error = _extrapolated(data)
    bound = t_bound(data.law_spectrum.size, data.sizes["seed"])
    spread = found.sel(statistic="spread")
    law = data.law_spectrum.sel(statistic="spread")
    # Terms in 1/c² remain.
    rest = 6 / float(data.spectrum_width[0]) ** 2
    interval = bound * error.sel(statistic="spread") + rest * law
    gap = largest(abs(spread - law) / interval)
    own = found.sel(statistic="own").isel(depth=-1)
    own_laws = data.law_spectrum.sel(statistic="own")
    own_law = float(own_laws[-1])
    own_error = float(error.sel(statistic="own")[-1])
    own_interval = bound * own_error + rest * abs(own_law)
    deepest = int(data.depth[-1])
    return [
        Compared(
            "delta-orthogonal: spread, largest gap over its interval", gap, high=1.0
        ),
        Compared(
            f"delta-orthogonal: spread of ln s at {deepest} layers",
            float(spread[-1]),
            high=float(spread[0]),
            words="less than at the least depth",
        ),
        within(
            f"the signal's own direction at {deepest} layers, below the median",
            float(own),
            own_law,
            tolerance=own_interval,
        ),
    ]


def _gaussian(data: xarray.Dataset) -> list[Compared]:
    """Compare the exponents of Gaussian kernels with the known ones."""
    known, variance = _known_exponents(data.attrs["lyapunov_width"])
    num_layers = data.attrs["lyapunov_depth"]
    error = np.sqrt(variance / num_layers / data.sizes["seed"])
    found = data.exponent.mean("seed").values
    off = np.abs(found - known) / error
    # The variance is known, so the bound is that of normal numbers.
    level = 0.05 / off.size
    bound = float(stats.norm.ppf(1 - level / 2))
    seeds = data.sizes["seed"]
    root = math.sqrt(seeds)
    spreads = [_spread_of_ring(of_seed) for of_seed in data.exponent.values]
    spread_error = np.std(spreads, ddof=1) / root
    return [
        Compared(
            f"Gaussian: exponents of {num_layers} layers, standard errors off",
            largest(off),
            high=bound,
        ),
        within(
            f"Gaussian: spread of ln s at {num_layers} layers",
            num_layers * float(np.mean(spreads)),
            num_layers * _spread_of_ring(known),
            tolerance=num_layers * t_bound(1, seeds) * float(spread_error),
        ),
    ]


def _spread_of_ring(exponents: Float[np.ndarray, "frequencies index"]) -> float:
    """Return the interquartile range of the exponents of all frequencies."""
    # The third frequency mirrors the second.
    real, both = exponents
    every = np.concatenate([real, both, both])
    low, high = np.quantile(every, [0.25, 0.75])
    return float(high - low)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw depth scales by mode, spreads over depth, and accuracies.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.6, width=2.7)
    _draw_modes(left, data)
    _draw_spreads(middle, data)
    _draw_accuracies(right, data)
    return figure


def _draw_modes(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw depth scales against the variance of the weights."""
    mean = data.response.mean("draw")
    error = _standard_error(data.response, "draw")
    # Modes 3 and 4 are gone after one layer.
    for i, mode in enumerate(MODES[:3]):
        at = {"kernel": "uniform", "mode": mode}
        of_mode = mean.sel(at)
        _draw_scale(ax, of_mode, error=error.sel(at), i=i)
        factor = np.abs(data.law_fine.sel(at))
        predicted = -1 / np.log(factor)
        _style.line(ax, data.fine, y=predicted, i=i)
    # It coincides with mode 0 of uniform kernels, so its marks are open and larger.
    at = {"kernel": "delta", "mode": 2}
    how = {"fillstyle": "none", "ms": 6, "label": "mode 2, delta"}
    of_mode = mean.sel(at)
    _draw_scale(ax, of_mode, error=error.sel(at), i=3, **how)
    critical = float(data.law_critical)
    thin = {"color": "0.4", "lw": 0.9, "ls": ":"}
    ax.axvline(critical, label="critical", **thin)
    ax.set(
        xlabel=r"$\sigma_w^2$",
        ylabel="depth scale (layers)",
        title="Patterns on a ring of 8 (lines: theory)",
        yscale="log",
        ylim=(0.5, 200),
    )
    ax.legend(loc="upper left")


def _draw_scale(
    ax: "Axes",
    mean: xarray.DataArray,
    *,
    error: xarray.DataArray,
    i: int,
    **how: object,
) -> None:
    """Draw the depth scales of one mode, with two standard errors."""
    scale = -LAYERS / np.log(mean)
    # To first order: d(1/ln y) = dy/(y ln² y).
    relative = error / mean
    scale_error = 2 * scale**2 * relative / LAYERS
    style = {"label": f"mode {i}, uniform", **how}
    _style.dots(ax, mean.square_w, scale, error=scale_error, i=i, **style)


def _draw_spreads(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the interquartile range of ln s against depth."""
    num_layers = data.attrs["lyapunov_depth"]
    width = data.attrs["lyapunov_width"]
    known, _ = _known_exponents(width)
    exponents = data.exponent.mean("seed")
    measured = _spread_of_ring(exponents.values)
    # Exponents say how products grow once there are as many factors as channels.
    layers = np.array([width, num_layers])
    predicted = layers * _spread_of_ring(known)
    _style.line(ax, layers, y=predicted, i=1)
    _style.dots(
        ax,
        [num_layers],
        [num_layers * measured],
        error=None,
        i=1,
        label=f"Gaussian, linear, {width} channels",
    )
    found, error = _extrapolated(data)
    labels = {
        "spread": "delta-orthogonal",
        "own": "the same, signal below the median",
    }
    for i, (statistic, label) in zip((0, 2), labels.items(), strict=True):
        at = {"statistic": statistic}
        # The signal's own direction lies below the median.
        value = abs(found.sel(at))
        two_errors = 2 * error.sel(at)
        _style.dots(
            ax,
            data.depth,
            value,
            error=two_errors,
            i=i,
            label=label,
        )
        predicted = abs(data.law_spectrum.sel(at))
        _style.line(ax, data.depth, y=predicted, i=i)
    ax.set(
        xlabel="layers, L",
        ylabel="interquartile range of ln s",
        title="Spectra at q* = 1/L (lines: theory)",
        yscale="log",
        xscale="log",
        ylim=(0.03, 2e4),
    )
    ax.legend(loc="upper left")


def _draw_accuracies(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw accuracies against depth, a mark for each network."""
    names = {"delta_orthogonal": "delta-orthogonal", "gaussian": "Gaussian"}
    for i, (scheme, name) in enumerate(names.items()):
        accuracy = data.accuracy.sel(scheme=scheme)
        mean = accuracy.mean("training_seed")
        _style.line(ax, data.trained, y=mean, i=i)
        for j in range(data.sizes["training_seed"]):
            label = name if j == 0 else None
            of_seed = accuracy.isel(training_seed=j)
            _style.dots(ax, data.trained, of_seed, error=None, i=i, label=label)
    thin = {"color": "0.4", "lw": 0.9, "ls": ":"}
    ax.axhline(CHANCE_SHARE, label="most frequent digit", **thin)
    _style.ticks(ax, data.trained)
    # Marks at the ends are not cut.
    ax.margins(x=0.08)
    ax.set(
        xlabel="layers, L",
        ylabel="accuracy on the training set",
        title="Trained on digits",
        ylim=(0, 1),
    )
    ax.legend(loc="upper right")
