"""The plane of a sweep shows its means, what is missing, and what theory knows."""

import io
import math

import numpy as np
import pytest

from isometry import InputError, plots, theory
from isometry.plots import _plane, _theory_curves

matplotlib = pytest.importorskip("matplotlib")
xarray = pytest.importorskip("xarray")

from matplotlib.collections import QuadMesh  # noqa: E402
from matplotlib.colors import LogNorm, Normalize  # noqa: E402
from matplotlib.contour import ContourSet  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

NAN, INF = math.nan, math.inf
EPS = float(np.finfo(float).eps)

# The sweep of the first tests: depths as they were added, and three seeds a cell.
DEPTH = np.array([16, 4, 64])
SCHEME = ["zero", "haar"]
STATE = np.array(
    [[[1, 1, 1], [1, 2, 0]], [[0, 0, 0], [0, 2, 0]], [[1, 1, 1], [1, 0, 1]]]
)
LOSS = np.array(
    [
        [[1.0, 2.0, 6.0], [5.0, NAN, NAN]],
        [[NAN, NAN, NAN], [NAN, NAN, NAN]],
        [[7.0, INF, 7.0], [-1.0, NAN, 0.0]],
    ]
)
# In rows from the top by the order of names, in columns by rising depth.
MEAN = np.array([[NAN, 3.0, NAN], [NAN, 5.0, -0.5]])


@pytest.fixture(autouse=True, scope="module")
def nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


@pytest.fixture(scope="module")
def sweep():
    dims = ("depth", "scheme", "seed")
    loss = (dims, LOSS, {"long_name": "test loss", "units": "nats"})
    depth = ("depth", DEPTH, {"units": "layers"})
    return xarray.Dataset(
        {"loss": loss, "state": (dims, STATE), "error": (dims, STATE.astype(str))},
        {"depth": depth, "scheme": SCHEME, "seed": [0, 1, 2]},
    )


def plane(x, y, **coords):
    """A Dataset of the value x over two axes of numbers."""
    (x_name, xs), (y_name, ys) = x, y
    values = np.broadcast_to(xs, (len(ys), len(xs)))
    return xarray.Dataset(
        {"value": ((y_name, x_name), values)}, {x_name: xs, y_name: ys, **coords}
    )


def mesh_of(ax):
    (mesh,) = [item for item in ax.collections if isinstance(item, QuadMesh)]
    return mesh


def contours_of(ax):
    (contours,) = [item for item in ax.collections if isinstance(item, ContourSet)]
    return contours


def lines_of(ax):
    return {line.get_label(): np.array(line.get_data()) for line in ax.lines}


def test_colours_are_means_over_runs_that_are_done(sweep):
    """Depths are sorted. A mean with an infinity among its runs has no colour."""
    ax = plots.phase_diagram(sweep, "depth", "scheme", "loss")
    mesh = mesh_of(ax)
    np.testing.assert_array_equal(mesh.get_array().filled(NAN), MEAN)
    assert ax.get_xlabel() == "depth (layers)"
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "test loss (nats)\n(mean of 3 seeds)"
    # Depths grow by a constant factor, and so do the edges: a geometric mean between.
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [2, 8, 32, 128], rtol=8 * EPS)
    assert ax.get_xscale() == "log"
    # The first name is the top row.
    assert [label.get_text() for label in ax.get_yticklabels()] == SCHEME
    assert ax.yaxis_inverted()
    ax.figure.draw_without_rendering()


def test_cells_without_a_colour_are_hatched_by_their_reason(sweep):
    ax = plots.phase_diagram(sweep, "depth", "scheme", "loss")
    hatched = {item.get_label(): item for item in ax.collections if item.get_hatch()}
    cells = {
        label: [tuple(path.get_extents().intervalx) for path in item.get_paths()]
        + [tuple(path.get_extents().intervaly) for path in item.get_paths()]
        for label, item in hatched.items()
    }
    first, last = pytest.approx((2, 8)), pytest.approx((32, 128))
    assert cells == {
        "not run": [first, (-0.5, 0.5)],
        "failed": [first, (0.5, 1.5)],
        "not finite": [last, (-0.5, 0.5)],
    }
    assert len({item.get_hatch() for item in hatched.values()}) == 3
    # Of one cell a seed failed, of the other one was not run.
    dots = lines_of(ax)["some runs missing"]
    np.testing.assert_array_equal(dots, [[16, 64], [1, 1]])
    written = {text.get_text() for text in ax.get_legend().get_texts()}
    assert written == {*cells, "some runs missing"}


def test_a_sweep_that_did_not_begin_is_hatched_all_over(sweep):
    nothing = sweep.assign(state=0 * sweep.state, loss=sweep.loss.where(False))
    ax = plots.phase_diagram(nothing, "scheme", "depth", "loss")
    (hatched,) = ax.collections
    assert (hatched.get_label(), len(hatched.get_paths())) == ("not run", 6)
    assert len(ax.figure.axes) == 1
    assert ax.texts[0].get_text().startswith("no value of test loss")


def test_seeds_that_were_averaged_before_are_missed_all_the_same(sweep):
    """The state still tells them apart."""
    before = sweep.assign(loss=sweep.loss.mean("seed"))
    ax = plots.phase_diagram(before, "depth", "scheme", "loss")
    np.testing.assert_array_equal(mesh_of(ax).get_array().filled(NAN), MEAN)
    assert "some runs missing" in lines_of(ax)


@pytest.mark.parametrize(
    ("places", "scale", "edges"),
    [
        ([1.0, 1.5, 3.0], "linear", [0.75, 1.25, 2.25, 3.75]),
        ([0.0, 2.0, 4.0], "linear", [-1, 1, 3, 5]),
        ([6, 10, 16, 25], "log", np.sqrt([36 * 6 / 10, 60, 160, 400, 25 * 625 / 16])),
        # Denser around a transition, but not a geometric sequence.
        ([1, 1.1, 1.2, 2, 4], "linear", [0.95, 1.05, 1.15, 1.6, 3, 5]),
        ([7.0], "linear", [6.5, 7.5]),
    ],
)
def test_cells_reach_halfway_to_their_neighbours(places, scale, edges):
    ax = Figure().add_subplot()
    dataset = plane(("x", places), ("y", [2.0, 1.0]))
    assert plots.phase_diagram(dataset, "x", "y", "value", ax=ax) is ax
    drawn = mesh_of(ax).get_coordinates()[0, :, 0]
    np.testing.assert_allclose(drawn, edges, rtol=8 * EPS)
    assert ax.get_xscale() == scale
    assert ax.get_xlim() == pytest.approx((edges[0], edges[-1]))


def test_colour_scales_and_contours_are_of_the_values():
    """The value is x, so a contour is the line at which x is its level."""
    dataset = plane(("x", [1.0, 50.0, 101.0]), ("y", [0.0, 1.0]))

    def drawn(**options):
        ax = plots.phase_diagram(dataset, "x", "y", "value", **options)
        return ax, mesh_of(ax).norm

    ax, norm = drawn(contours=[20.0, 70.0, 500.0])
    assert isinstance(norm, LogNorm)
    contours = contours_of(ax)
    np.testing.assert_allclose(contours.levels, [20, 70])
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices[:, 0], level, rtol=8 * EPS)
    # Less than two decades.
    ax, norm = drawn(contours=3, norm=Normalize(1, 101))
    contours = contours_of(ax)
    np.testing.assert_allclose(contours.levels, [26, 51, 76], rtol=8 * EPS)
    assert not isinstance(drawn(norm="linear")[1], LogNorm)
    dataset = dataset.isel(x=slice(0, 2))
    assert not isinstance(drawn()[1], LogNorm)


def chi_at_fixed_point(sigma_w, sigma_b):
    """chi_1 of tanh where iteration of the variance map arrives, by Gauss's rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()
    q = 1.0
    for _ in range(300):
        q = sigma_w**2 * weights @ np.tanh(np.sqrt(q) * nodes) ** 2 + sigma_b**2
    return sigma_w**2 * weights @ np.cosh(np.sqrt(q) * nodes) ** -4.0


def test_the_critical_line_is_where_chi_is_one():
    """From (1, 0), where q = 0, to the edge of the axes."""
    dataset = plane(("sigma_w", [0.5, 1.0, 1.5]), ("sigma_b", [0.0, 0.2, 0.4]))
    ax = plots.phase_diagram(dataset, "sigma_b", "sigma_w", "value", theory="tanh")
    sigma_b, sigma_w = lines_of(ax)["χ₁ = 1"]
    np.testing.assert_allclose([sigma_b[0], sigma_w[0]], [0, 1], atol=1e-8)
    assert sigma_b[-1] > 0.5
    assert np.abs(np.diff(sigma_b)).max() < 0.1
    for at in (0.1, 0.3, 0.5):
        i = np.searchsorted(sigma_b, at)
        # Of Gauss's rule: poles of tanh at distance pi/2 from the axis, and q < 1.
        found = chi_at_fixed_point(sigma_w[i], sigma_b[i])
        assert found == pytest.approx(1, abs=1e-6)


def test_linear_networks_have_one_critical_point():
    """Every q is fixed at sigma_w = 1 without biases."""
    dataset = plane(("sigma_w", [1.0, 1.5]), ("sigma_b", [0.0, 0.2]))
    ax = plots.phase_diagram(dataset, "sigma_w", "sigma_b", "value", "Linear")
    (point,) = ax.lines
    assert point.get_marker() == "D"
    np.testing.assert_allclose(point.get_xdata(), 1, rtol=1e-12)
    np.testing.assert_allclose(point.get_ydata(), 0, atol=1e-6)


def test_a_critical_line_that_does_not_exist_is_said_not_to(monkeypatch):
    """As that of softplus, which would need sigma_b² < 0."""

    def critical_at(activation, q):
        raise theory.NoCriticalPoint("there is none")

    monkeypatch.setattr(_theory_curves, "critical_at", critical_at)
    dataset = plane(("sigma_w", [1.0, 1.5]), ("sigma_b", [0.0, 0.2]))
    ax = plots.phase_diagram(dataset, "sigma_w", "sigma_b", "value", "softplus")
    assert list(lines_of(ax)) == ["χ₁ = 1: not within these axes"]


DEPTHS = ("depth", [10, 100, 1000, 10000])


@pytest.mark.parametrize("sigma_b", ["coordinate", "attribute"])
def test_depth_scales_of_linear_networks_have_a_closed_form(sigma_b):
    """chi_1 = sigma_w² = C'(1), and there is no fixed point from sigma_w = 1 on."""
    dataset = plane(("sigma_w", [0.6, 0.8, 1.0, 1.2]), DEPTHS)
    if sigma_b == "coordinate":
        dataset = dataset.assign_coords(sigma_b=0.1)
    else:
        dataset = dataset.assign_attrs(sigma_b=0.1)
    ax = plots.phase_diagram(dataset, "sigma_w", "depth", "value", "linear")
    lines = lines_of(ax)
    assert list(lines) == ["6 ξ$_c$", "6 ξ$_\\nabla$"]
    for sigma_w, depth in lines.values():
        # At sigma_w = 1 there is one by rounding, with q beyond the theory's range.
        exists = sigma_w < 1 - 1e-12
        assert np.isnan(depth[~exists]).all()
        wanted = -6 / np.log(sigma_w[exists] ** 2)
        # The slope is one but for 1/wanted, which its rounding is divided by.
        allowed = 1e-12 * depth[exists].max()
        np.testing.assert_allclose(depth[exists], wanted, rtol=allowed)
        # It leaves the axes at the top, though no first point was so close to one.
        assert depth[exists].max() > 1e4
        # A smooth line: its steps are a fraction of the three decades and a half.
        inside = depth[exists & (depth > 10) & (depth < 1e4)]
        assert np.abs(np.diff(np.log10(inside))).max() < 0.4


def test_divergences_are_found_between_points_and_plateaus_cost_nothing():
    """The first points are about as far apart as the divergence is wide."""
    dataset = plane(("sigma_w", [1.0, 2.0]), DEPTHS)
    axes = [_plane.read_axis(dataset, name, {}) for name in ("sigma_w", "depth")]
    calls = []

    def depths_at(sigma_w):
        calls.append(sigma_w)
        return 2 / abs(sigma_w - 1.51234), 500.0

    diverging, constant = _theory_curves._refined(depths_at, *axes).values()
    assert diverging["depth"].max() > 1e4
    np.testing.assert_array_equal(constant["depth"], 500)
    assert len(calls) < 100
    calls.clear()
    _theory_curves._refined(lambda s: (depths_at(s)[1],) * 2, *axes)
    assert len(calls) == _theory_curves._FIRST_POINTS


def test_depth_scales_are_drawn_over_sigma_b_too():
    """Of linear networks they do not depend on it."""
    dataset = plane(("sigma_b", [0.1, 0.2, 0.3]), DEPTHS, sigma_w=0.95)
    ax = plots.phase_diagram(dataset, "depth", "sigma_b", "value", "linear")
    depth, sigma_b = lines_of(ax)["6 ξ$_c$"]
    np.testing.assert_allclose(depth, -6 / math.log(0.95**2), rtol=1e-11)
    np.testing.assert_allclose(sigma_b[[0, -1]], [0.05, 0.35], rtol=8 * EPS)


def test_curves_of_the_user_are_drawn():
    dataset = plane(("width", [1.0, 2.0]), ("depth", [1.0, 2.0]))
    own = {"mine": ([1, 2], [1.5, 1.2]), "beyond": ([1, 2], [9, 9])}
    ax = plots.phase_diagram(dataset, "width", "depth", "value", own)
    lines = lines_of(ax)
    np.testing.assert_array_equal(lines["mine"], [[1, 2], [1.5, 1.2]])
    assert "beyond: not within these axes" in lines


PLANE = ("depth", "scheme", "loss")


@pytest.mark.parametrize(
    ("change", "names", "options", "message"),
    [
        (lambda d: 3, PLANE, {}, "dataset=3 is not a Dataset: it has no dims"),
        (lambda d: d[[]], PLANE, {}, "dataset has no data variable"),
        (None, ("dept", "scheme", "loss"), {}, "x='dept' .* Did you mean 'depth'"),
        (None, ("depth", "depth", "loss"), {}, "x and y are both 'depth'"),
        (None, ("depth", "scheme", "los"), {}, "value='los' .* Did you mean 'loss'"),
        (None, PLANE, {"over": "sed"}, "over='sed' .* Did you mean 'seed'"),
        (None, PLANE, {"over": ["depth"]}, "repeats 'depth', or an axis"),
        (None, PLANE, {"over": ["seed", "seed"]}, "repeats 'seed'"),
        (
            None,
            PLANE,
            {"over": ()},
            r"also varies along 'seed' .* dataset.sel\(seed=0\)",
        ),
        (None, PLANE, {"scale": {"depht": "log"}}, "scale='depht' is not known"),
        (
            None,
            PLANE,
            {"scale": {"scheme": "log"}},
            "'scheme', but its values are no numbers",
        ),
        (None, PLANE, {"norm": "log"}, "no colour for 1 values that are not positive"),
        (None, PLANE, {"contours": 3}, "'scheme' is one of names"),
        (None, PLANE, {"ax": 3}, "ax=3 is not an Axes"),
        (None, PLANE, {"theory": "tahn"}, "theory='tahn' .* Did you mean 'tanh'"),
        (None, PLANE, {"theory": "tanh"}, "not over x='depth' and y='scheme'"),
        (None, PLANE, {"theory": {"a": ([1], [1, 2])}}, r"theory\['a'\] has shapes"),
        (None, ("depth", "scheme", "error"), {}, "value='error' holds <U"),
        (lambda d: d.isel(depth=[]), PLANE, {}, "dimension 'depth' is empty"),
        (lambda d: d.isel(depth=[0, 0]), PLANE, {}, "'depth' holds 16 twice"),
        (lambda d: d.mean("seed"), PLANE, {}, "dataset.state holds 0.66"),
        (
            lambda d: d.assign(mean=d.loss.mean(("seed", "depth"))),
            ("depth", "scheme", "mean"),
            {},
            "value='mean' does not vary along x='depth'; its dimensions are scheme",
        ),
        (
            lambda d: d.rename(scheme="sigma_w").assign_coords(sigma_w=[1.0, 2.0]),
            ("depth", "sigma_w", "loss"),
            {"theory": "tanh"},
            "theory needs sigma_b, which dataset does not hold",
        ),
    ],
)
def test_refusals(sweep, change, names, options, message):
    dataset = change(sweep) if change else sweep
    with pytest.raises(InputError, match=rf"plots\.phase_diagram\(\): .*{message}"):
        plots.phase_diagram(dataset, *names, **options)


def test_seeds_may_be_an_axis(sweep):
    """Then they are not averaged over, as they are by default."""
    ax = plots.phase_diagram(sweep.isel(scheme=0), "seed", "depth", "loss")
    mesh = mesh_of(ax)
    np.testing.assert_array_equal(mesh.get_array().filled(NAN)[1], LOSS[0, 0])
    assert ax.figure.axes[1].get_ylabel() == "test loss (nats)"


def test_dollars_in_names_begin_no_formula():
    """Names of dimensions, of their values and of the value, but no long names."""
    name = r"a_$\frac$"
    values = (("depth", name), np.ones((3, 2)))
    data = xarray.Dataset({f"{name}!": values}, {name: [f"{name}1", f"{name}2"]})
    ax = plots.phase_diagram(data, name, "depth", f"{name}!", theory=None)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        ax.figure.savefig(file, format="svg")
    for text in (name, f"{name}1", f"{name}2", f"{name}!"):
        assert f">{text}<" in file.getvalue()
