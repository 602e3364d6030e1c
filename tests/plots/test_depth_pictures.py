"""Pictures of a quadrature, of profiles and of signals draw what they say."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, Spectrum, plots, theory

matplotlib = pytest.importorskip("matplotlib")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

LN10 = math.log(10)
SIZE = 64
STEPS = 16
EPS = float(np.finfo(np.float32).eps)
VALUES = np.r_[np.linspace(0.5, 2.0, SIZE - 8), np.zeros(8)]


@pytest.fixture(autouse=True)
def nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


QUARTER_CIRCLE = theory.fuss_catalan(1)


@pytest.fixture(scope="module")
def measured():
    """Quadratures of three matrices, in one program."""
    of_circle = QUARTER_CIRCLE.quantile((np.arange(SIZE) + 0.5) / SIZE, "s")
    values = jnp.asarray(np.stack([VALUES, VALUES, of_circle]), jnp.float32)
    method = isometry.Lanczos(steps=STEPS, probes=6)

    def one(values, key):
        return isometry.spectrum(
            lambda s, x: s * x, values, jnp.ones(SIZE), method=method, key=key
        )

    return jax.jit(jax.vmap(one))(values, jax.random.split(jax.random.key(0), 3))


@pytest.fixture(scope="module")
def quadratures(measured):
    """Of two seeds, in the layout of an ensemble, (seeds, inputs)."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:2, None], measured)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_nodes_are_drawn_as_a_smooth_density_with_a_band(quadratures, ax):
    """No bar; with the mass that is written below, the line holds all of it."""
    assert plots.spectrum(quadratures, ax) is ax
    (line,) = ax.lines
    x, y = line.get_data()
    (below,) = [float(t.split(" %")[0]) / 100 for t in texts(ax)]
    # Two digits are written; the zeros are an eighth.
    assert below == pytest.approx(1 / 8, abs=0.03)
    assert np.trapezoid(y, x) + below == pytest.approx(1, abs=0.02)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["smooth density", "95 % over probes", "not resolved"]
    shaded = [patch for patch in ax.patches if patch.get_label() == "not resolved"]
    assert shaded[0].get_x() + shaded[0].get_width() == pytest.approx(x[0])
    # Two standard deviations of a zero's bump, in units of the largest node: float64
    # of the picture, and so the default tolerance.
    largest = float(np.max(quadratures.log_values[..., 0])) / LN10
    bump = 2 * math.pi / (4 * STEPS)
    assert x[0] == pytest.approx(largest + math.log10(bump))
    ax.figure.draw_without_rendering()


def test_the_band_is_that_of_probes(quadratures, ax):
    """Student's t times the standard error over six probes, of means over matrices."""
    plots.spectrum(quadratures, ax)
    (line,) = ax.lines
    x, y = line.get_data()
    rules = quadratures.quadrature
    by_probe = np.stack(
        [
            isometry.linalg.smooth_density(
                jnp.asarray(rules.log_values[:, 0, probe]),
                jnp.asarray(rules.weights[:, 0, probe]),
                STEPS,
                jnp.asarray(x * LN10, jnp.float32),
            ).mean(0)
            for probe in range(6)
        ]
    )
    by_probe = by_probe.astype(float) * LN10
    # Sums of 2 · 16 waves in float32, in another order.
    rounding = 2 * STEPS * EPS * y.max()
    np.testing.assert_allclose(y, by_probe.mean(0), rtol=0, atol=rounding)
    reach = 2.5706 * by_probe.std(0, ddof=1) / math.sqrt(6)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    at = len(x) // 2
    heights = corners[np.isclose(corners[:, 0], x[at]), 1]
    # The quantile has five digits. A deviation is off by what its numbers are, once in
    # y and 2.57 times in the reach.
    atol = 5e-5 / 2.5706 * reach[at] + (1 + 2.5706) * rounding
    np.testing.assert_allclose(
        [heights.min(), heights.max()],
        [max(y[at] - reach[at], 0), y[at] + reach[at]],
        rtol=0,
        atol=atol,
    )


def test_one_probe_has_a_line_and_no_width(quadratures, ax):
    rules = quadratures.quadrature
    one = rules._replace(
        log_values=rules.log_values[:, :, :1],
        weights=rules.weights[:, :, :1],
    )
    plots.spectrum(replace(quadratures, quadrature=one), ax)
    corners = ax.collections[0].get_paths()[0].vertices
    x, y = ax.lines[0].get_data()
    at = len(x) // 2
    np.testing.assert_allclose(corners[np.isclose(corners[:, 0], x[at]), 1], y[at])


def band_of(collection, x):
    """The lower and the upper edge of a band, at x."""
    corners = collection.get_paths()[0].vertices
    at_each = [corners[np.isclose(corners[:, 0], place), 1] for place in x]
    return np.array([[edge.min(), edge.max()] for edge in at_each]).T


def test_a_quadrature_is_drawn_under_its_law(measured, ax):
    """A quarter circle, from the quantiles of its law."""
    sp = jax.tree.map(lambda leaf: np.asarray(leaf)[2:], measured)
    plots.overlay(replace(sp, span="given"), QUARTER_CIRCLE, ax, scale="linear")
    lines = {line.get_label(): line.get_data() for line in ax.lines}
    x, drawn = lines["measured, smooth"]
    predicted = np.interp(x, *lines["predicted"])
    inside = (x > 0.3) & (x < 1.7)
    # Six probes see the mass of a bump, a twelfth of all, to √(2/66/6/12).
    assert np.abs(drawn - predicted)[inside].mean() < 0.08
    low, high = band_of(ax.collections[0], x)
    covers = (low <= predicted) & (predicted <= high)
    assert covers[inside].mean() > 0.6
    assert not [patch for patch in ax.patches if patch.get_label() == "measured"]
    ax.figure.draw_without_rendering()


def of_values(*values):
    """The spectrum of one seed and input with these four values."""
    return Spectrum.of_jacobians(np.diag(values)[None, None])


NAMES = ("layers/0", "layers/1", "layers/2")
PROFILE = SimpleNamespace(
    points=NAMES,
    toward="output",
    spectra={
        "layers/0": of_values(100.0, 10.0, 1.0, 0.0),
        "layers/1": of_values(10.0, 1.0, 0.1, 0.0),
        "layers/2": of_values(1.0, 1.0, 1.0, 1.0),
    },
)


def test_a_profile_draws_quantiles_of_log_s_and_zeros():
    above, below = plots.profile(PROFILE).axes
    lines = {line.get_label(): line.get_ydata() for line in above.lines}
    np.testing.assert_allclose(lines["median"], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(lines["largest"], [2, 1, 0], atol=1e-6)
    squares = [10101 / 4, 101.01 / 4, 1.0]
    wanted = np.log10(squares) / 2
    np.testing.assert_allclose(lines["root mean square"], wanted, atol=1e-6)
    bars = {
        bars.get_label(): [bar.get_height() for bar in bars]
        for bars in below.containers
    }
    assert bars["not resolved or zero"] == [25, 25, 0]
    assert bars["exactly zero"] == [25, 25, 0]
    assert [tick.get_text() for tick in below.get_xticklabels()] == list(NAMES)
    assert below.get_xlabel() == "from each point to the output"


def test_a_profile_of_great_depth_does_not_overflow():
    logs = np.array([[[1000.0, -np.inf, -np.inf, -np.inf]]], np.float32)
    floor = np.full((1, 1), np.float32(-np.inf))
    sp = Spectrum(logs, np.full_like(logs, 0.25), floor, size=4)
    deep = SimpleNamespace(points=("x",), toward="input", spectra={"x": sp})
    lines = {line.get_label(): line for line in plots.profile(deep).axes[0].lines}
    root = lines["root mean square"].get_ydata()
    assert root == pytest.approx((1000 + math.log(0.25) / 2) / LN10)


def test_a_profile_of_quadratures_leaves_out_what_they_do_not_know(quadratures):
    profile = SimpleNamespace(points=("x",), toward="next", spectra={"x": quadratures})
    above, below = plots.profile(profile).axes
    lines = {line.get_label(): line for line in above.lines}
    assert "median" not in lines
    assert lines["largest"].get_ydata() == pytest.approx(math.log10(2), abs=1e-5)
    assert "not known" in texts(below)


def test_many_points_are_named_sparingly():
    names = tuple(f"layers/{i}" for i in range(100))
    spectra = dict.fromkeys(names, of_values(1.0, 0.5, 0.5, 0.5))
    deep = SimpleNamespace(points=names, toward="output", spectra=spectra)
    below = plots.profile(deep).axes[1]
    assert 8 <= len(below.get_xticks()) <= 16


def test_dollars_in_names_of_points_begin_no_formula():
    """What stands between them would be an error in a formula."""
    name = r"a_$\frac$"
    spectra = {name: of_values(1.0, 0.5, 0.5, 0.5)}
    profile = SimpleNamespace(points=(name,), toward="output", spectra=spectra)
    figure = plots.profile(profile)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    assert f">{name}<" in file.getvalue()


POINTS = ("input", "layers/0", "layers/0:out", "layers/1")
RNG = np.random.default_rng(0)


def signals_of(seeds, inputs, **changed):
    """Random signals in the layout of the record."""
    fields = {
        name: RNG.uniform(0.5, 2.0, (seeds, inputs, len(POINTS)))
        for name in ("q", "gradient", "apjn", "chi")
    }
    fields["c"] = RNG.uniform(-1, 1, (seeds, inputs, inputs, len(POINTS)))
    return SimpleNamespace(points=POINTS, **(fields | changed))


def lines_of(figure, index):
    return {line.get_label(): line for line in figure.axes[index].lines}


def test_signals_are_means_over_inputs_with_a_band_over_seeds():
    measured = signals_of(4, 3)
    figure = plots.signals(measured)
    by_seed = measured.q.mean(1)
    lines = lines_of(figure, 0)
    of_layers = [0, 1, 3]
    np.testing.assert_array_equal(lines["layers"].get_xdata(), of_layers)
    wanted = by_seed.mean(0)[of_layers]
    np.testing.assert_allclose(lines["layers"].get_ydata(), wanted)
    after = lines["after what follows them (:out)"]
    np.testing.assert_allclose(after.get_ydata(), by_seed.mean(0)[[2]])
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    heights = corners[np.isclose(corners[:, 0], 1), 1]
    assert heights.min() == pytest.approx(by_seed[:, 1].min())
    assert heights.max() == pytest.approx(by_seed[:, 1].max())
    figure.draw_without_rendering()


def test_cosines_are_of_different_inputs():
    measured = signals_of(2, 3)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    wanted = np.mean([measured.c[:, i, j] for i, j in pairs], (0, 1))
    line = lines_of(plots.signals(measured), 1)["layers"]
    np.testing.assert_allclose(line.get_ydata(), wanted[[0, 1, 3]])


def test_a_single_input_has_no_cosine():
    figure = plots.signals(signals_of(2, 1))
    (words,) = texts(figure.axes[1])
    assert words.replace("\n", " ") == "of a single input there is no other"


def test_predictions_are_drawn_at_the_points_of_their_name():
    """Of fewer points, in another order; what is not predicted is left out."""
    measured = signals_of(2, 2)
    numbers = np.array([7.0, 5.0])
    unknown = np.full(2, np.nan)
    predicted = SimpleNamespace(
        points=("layers/1", "layers/0"),
        q=numbers,
        c=unknown,
        gradient=unknown,
        apjn=unknown,
        chi=unknown,
    )
    figure = plots.signals(measured, predicted)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed[0].get_ydata(), [np.nan, 5, 7])
    figure.draw_without_rendering()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_signals_are_not_means_of_the_seeds_that_survive(broken):
    """A value of one seed and input is not finite: the line has a gap, and a cross."""
    measured = signals_of(4, 3)
    measured.q[1, 2, 1] = broken
    figure = plots.signals(measured)
    ax = figure.axes[0]
    lines = lines_of(figure, 0)
    wanted = measured.q.mean((0, 1))[[0, 1, 3]]
    wanted[1] = np.nan
    np.testing.assert_allclose(lines["layers"].get_ydata(), wanted)
    corners = ax.collections[0].get_paths()[0].vertices
    assert not np.isclose(corners[:, 0], 1).any()
    crosses = lines["not finite in some seed"]
    assert crosses.get_xdata().tolist() == [1]
    assert crosses.get_transform() == ax.get_xaxis_transform()
    legend = [text.get_text() for text in figure.axes[5].get_legend().get_texts()]
    assert "not finite in some seed" in legend
    assert "not finite in some seed" not in lines_of(figure, 2)
    figure.draw_without_rendering()


def test_cosines_are_not_means_of_the_pairs_that_survive():
    measured = signals_of(2, 3)
    measured.c[0, 1, 2, 3] = np.nan
    lines = lines_of(plots.signals(measured), 1)
    assert np.isnan(lines["layers"].get_ydata()).tolist() == [False, False, True]
    assert lines["not finite in some seed"].get_xdata().tolist() == [3]


def test_points_at_which_a_field_is_not_known_have_no_cross():
    """χ is a ratio of two points, and the first has none before it."""
    measured = signals_of(2, 3)
    measured.chi[:, :, 0] = np.nan
    lines = lines_of(plots.signals(measured), 4)
    assert "not finite in some seed" not in lines
    assert np.isnan(lines["layers"].get_ydata()).tolist() == [True, False, False]


def test_what_is_not_known_is_said_with_its_reason():
    unknown = np.full((2, 2, 4), np.nan)
    measured = signals_of(2, 2, chi=unknown)
    measured.why = {"chi": "some path leads around"}.get
    figure = plots.signals(measured)
    assert texts(figure.axes[4]) == ["some path leads around"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.profile(3), r"plots\.profile\(\): profile=3 is not a Profile"),
        (lambda: plots.signals(3), r"measured=3 is not a Signals: it has no points, q"),
        (
            lambda: plots.signals(signals_of(1, 1), {"q": 1}),
            r"plots\.signals\(\): predicted=\{'q': 1\} is not a Signals",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_layer_is_named_by_its_first_point():
    """A residual stream has no pre-activations among its points, and is named too."""
    names = ("embed", "block_0:sum", "block_1", "block_1:out")
    spectra = dict.fromkeys(names, of_values(1.0, 0.5, 0.5, 0.5))
    residual = SimpleNamespace(points=names, toward="output", spectra=spectra)
    below = plots.profile(residual).axes[1]
    shown = [tick.get_text() for tick in below.get_xticklabels()]
    assert shown == ["embed", "block_0:sum", "block_1"]
