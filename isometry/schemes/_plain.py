"""Schemes that treat all layers of a kind alike, on branches or not."""

from isometry import initializers
from isometry._internal.types import Initializer as Init
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Drawn, Ensemble, Scheme, same


def _gaussian(layer: Layer, sigma_w: float) -> Init:
    """Choose Gaussian weights of variance sigma_w²/fan_in."""
    return initializers.normal(std=sigma_w * layer.fan_in**-0.5)


def _orthogonal(layer: Layer, sigma_w: float) -> Init:
    """Choose orthogonal weights with all singular values sigma_w."""
    # Every layer gets the same initializer.
    del layer
    return initializers.orthogonal(sigma_w)


def _widened(layer: Layer, sigma_w: float) -> float:
    """Return sigma_w √(fan_out/fan_in) for a layer that widens, else sigma_w.

    With this gain an orthogonal layer keeps the variance of units.
    """
    return sigma_w * max((layer.fan_out / layer.fan_in) ** 0.5, 1.0)


def scaled_orthogonal(layer: Layer, sigma_w: float) -> Init:
    """Choose orthogonal weights that keep the variance of units.

    Kernels are orthogonal at the centre tap and zero elsewhere.
    """
    # The gain takes the ratio of the channels. For a kernel it is fan_out / fan_in too,
    # because both fans count the window.
    gain = _widened(layer, sigma_w)
    if layer.window:
        return initializers.delta_orthogonal(gain)
    return initializers.orthogonal(gain)


def _delta_orthogonal(layer: Layer, sigma_w: float) -> Init:
    """Choose delta-orthogonal kernels, and orthogonal weights without a window."""
    if layer.window:
        return initializers.delta_orthogonal(sigma_w)
    return initializers.orthogonal(sigma_w)


def _block_orthogonal(layer: Layer, sigma_w: float) -> Init:
    """Choose block-orthogonal kernels, and orthogonal weights without a window."""
    if layer.window:
        return initializers.block_orthogonal(sigma_w)
    return initializers.orthogonal(sigma_w)


def _kernels(name: str) -> Ensemble:
    """Return the distribution of kernels by this name, and of Haar matrices."""

    def drawn(layer: Layer, sigma_w: float) -> Drawn:
        return Drawn(name if layer.window else "orthogonal", sigma_w)

    return drawn


def _widened_kernels(layer: Layer, sigma_w: float) -> Drawn:
    """Return the distribution of what `scaled_orthogonal` draws."""
    drawn = _kernels("delta_orthogonal")
    return drawn(layer, _widened(layer, sigma_w))


def _identity(layer: Layer, sigma_w: float) -> Init:
    """Choose the identity, and a partial identity in the head."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    # A head has one output for each class, so it is hardly ever square, and `identity`
    # would refuse it.
    if layer.role == "head":
        return initializers.partial_identity()
    return initializers.identity()


SCHEMES = (
    Scheme(
        "gaussian",
        _gaussian,
        "Gaussian weights and biases, critical for the activation unless the sigmas "
        "are given",
        law="W_ij ~ N(0, sigma_w²/fan_in), b ~ N(0, sigma_b²); sigma_w solves "
        "chi_1 = 1 at sigma_b (0 if not given)",
        citation="Poole et al. (2016), arXiv:1606.05340",
        # The user's sigma_w is taken: theory has the laws for every scale.
        free=True,
        ensemble=lambda layer, sigma_w: Drawn("gaussian", sigma_w),
    ),
    Scheme(
        "orthogonal",
        _orthogonal,
        "Haar orthogonal weights, critical for the activation unless the sigmas are "
        "given",
        law="every singular value sigma_w (of a kernel: of the flattened matrix), "
        "b ~ N(0, sigma_b²); sigma_w solves chi_1 = 1 at sigma_b (0 if not given)",
        isometric="linear networks; tanh-like ones as q* → 0; a widening layer shrinks "
        "the variance of its units",
        citation="Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735",
        free=True,
        # Theory has laws for Haar weights too, if all singular values are equal.
        ensemble=_kernels("orthogonal_kernel"),
    ),
    Scheme(
        "scaled_orthogonal",
        scaled_orthogonal,
        "orthogonal weights, scaled up where a layer widens so that its units keep "
        "their variance",
        law="every singular value sigma_w max(√(fan_out/fan_in), 1), "
        "b ~ N(0, sigma_b²); kernels are delta-orthogonal",
        isometric="as orthogonal, where no layer widens",
        citation="Martens et al. (2021), arXiv:2110.01765",
        free=True,
        ensemble=_widened_kernels,
    ),
    Scheme(
        "delta_orthogonal",
        _delta_orthogonal,
        "convolution kernels that are Haar orthogonal at the centre tap and zero "
        "elsewhere; other weights Haar orthogonal",
        law="every singular value of the convolution sigma_w, b ~ N(0, sigma_b²); "
        "sigma_w solves chi_1 = 1 at sigma_b (0 if not given)",
        isometric="as orthogonal, with any padding and stride 1",
        citation="Xiao et al. (2018), arXiv:1806.05393",
        free=True,
        ensemble=_kernels("delta_orthogonal"),
        made_for="windows",
        otherwise="draws what orthogonal does",
    ),
    Scheme(
        "block_orthogonal",
        _block_orthogonal,
        "convolution kernels that use their whole window and whose circular "
        "convolution is orthogonal; other weights Haar orthogonal",
        law="every singular value of the circular convolution sigma_w, "
        "b ~ N(0, sigma_b²); sigma_w solves chi_1 = 1 at sigma_b (0 if not given)",
        isometric="as orthogonal, with circular padding and stride 1",
        citation="Xiao et al. (2018), arXiv:1806.05393, Algorithm 1",
        free=True,
        ensemble=_kernels("block_orthogonal"),
        made_for="windows",
        otherwise="draws what orthogonal does",
    ),
    Scheme(
        "identity",
        _identity,
        "identity wherever a layer is square, as all but the head must be; partial "
        "identity in the head; of a kernel at the centre tap",
        law="deterministic: all singular values 1",
        isometric="square layers; linear networks, and tanh-like ones near 0",
        citation="Le, Jaitly, Hinton (2015), arXiv:1504.00941",
    ),
    Scheme(
        "partial_identity",
        same(initializers.partial_identity()),
        "ones on the main diagonal of every layer, zeros elsewhere; of a kernel at the "
        "centre tap",
        law="deterministic: all min(m, n) singular values 1",
        isometric="every shape, but training stays in max(n_in, n_out) dimensions "
        "however wide the layers",
        citation="Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
    ),
    Scheme(
        "zer_o",
        same(initializers.zer_o()),
        "identity where a layer does not widen, a Hadamard block where it does",
        law="deterministic: all singular values 1 where a layer does not widen, or "
        "widens to a power of two",
        isometric="networks that widen to powers of two only",
        citation="Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
    ),
    Scheme(
        "xavier",
        same(initializers.xavier_uniform()),
        "uniform weights of variance 2/(fan_in + fan_out)",
        law="every layer xavier_uniform()",
        citation="Glorot and Bengio (2010)",
    ),
    Scheme(
        "kaiming",
        same(initializers.kaiming_normal()),
        "Gaussian weights of variance 2/fan_in",
        law="every layer kaiming_normal()",
        citation="He et al. (2015), arXiv:1502.01852",
        ensemble=lambda layer, sigma_w: Drawn("gaussian", 2**0.5),
    ),
)
