"""Pictures draw what was measured, on the Axes they are given, and nothing else."""

import html
import io
import itertools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from isometry import Dense, InputError, Records, Spectrum, plots, theory
from isometry.verdicts import Flag, Report, Reports
from isometry.verdicts._probe import Probe

matplotlib = pytest.importorskip("matplotlib")

from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

RNG = np.random.default_rng(1)
NO_LAW = "no law is known of xavier: there is one of weights drawn Gaussian or Haar"


def drawn_spectrum(nodes, span):
    """Of five seeds and two inputs, all values resolved."""
    log_values = np.sort(RNG.uniform(-2, 1, (5, 2, nodes)))[..., ::-1]
    return Spectrum(
        log_values=log_values.astype(np.float32),
        weights=np.full((5, 2, nodes), np.float32(1 / nodes)),
        log_floor=np.full((5, 2), np.float32(-14.0)),
        size=nodes,
        span=span,
        pairs=1,
    )


def report_of(scheme, law, no_law=""):
    """Of an audit of a network 6-8-8-3, trained for two steps."""
    rank = RNG.integers(0, 7, (5, 3, 1))
    probe = Probe(
        steps=np.arange(3),
        layers=("layers/1",),
        shapes=((8, 8),),
        gradient_rank=rank,
        tap_shapes=((8, 8),),
        tap_rank=rank,
        loss=np.ones((5, 3)),
        weights=("layers/0", "layers/1", "layers/2"),
        first_signal=np.zeros((5, 3), int),
        learning_rate=0.1,
        signals=None,
    )
    evidence = {"input_dimension": 6}
    flag = Flag("rank_constrained_training", "raised", "rank 6 of 8", evidence=evidence)
    spectra = {
        "end_to_end": drawn_spectrum(3, "end_to_end"),
        "hidden": drawn_spectrum(8, "hidden"),
    }
    return Report(
        network=scheme,
        flags={flag.name: flag},
        spectra=spectra,
        probe=probe,
        widths=None,
        setting={},
        provenance={},
        law=law,
        no_law=no_law,
    )


@pytest.fixture(scope="module")
def reports():
    law = theory.jacobian_law("tanh", 1, q=0.5, weights="gaussian")
    return Reports(
        {
            "xavier": report_of("xavier", None, NO_LAW),
            "gaussian": report_of("gaussian", law),
        }
    )


@pytest.fixture(scope="module")
def shallow(reports):
    """Depth 1 and no probe: one span, no hidden layer, no rank."""
    report = reports["gaussian"]
    spectra = {"end_to_end": report.spectra["end_to_end"]}
    no_law = "no law: fewer than three layers have no hidden span"
    return Reports(
        {
            "shallow": replace(
                report,
                spectra=spectra,
                probe=None,
                widths=None,
                law=None,
                no_law=no_law,
            )
        }
    )


@pytest.fixture(autouse=True)
def nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_the_mass_of_the_histogram_is_what_is_not_zero(ax):
    """A known measure: 24 values of which 6 are exact zeros."""
    values = np.array([4.0, 2.0, 1.0, 0.0]) * np.arange(1, 7)[:, None, None]
    with np.errstate(divide="ignore"):
        log_values = np.log(values).astype(np.float32)
    sp = Spectrum(
        log_values,
        np.full((6, 1, 4), np.float32(0.25)),
        np.full((6, 1), np.float32(-12.0)),
        Dense(),
        4,
    )
    assert plots.spectrum(sp, ax, bins=8, color="red") is ax
    mass = sum(bar.get_height() * bar.get_width() for bar in ax.patches)
    zeros = float(np.asarray(sp.zero_fraction()).mean())
    assert zeros == pytest.approx(0.25)
    assert mass == pytest.approx(1 - zeros, rel=1e-5)  # float32 weights
    assert ax.patches[0].get_x() == pytest.approx(
        0, abs=1e-5
    )  # the smallest value that is not zero is 1
    right = ax.patches[-1].get_x() + ax.patches[-1].get_width()
    assert right == pytest.approx(math.log10(24), rel=1e-5)
    assert "log" in ax.get_xlabel()
    (strip,) = ax.child_axes
    (bar,) = strip.patches
    assert mass + bar.get_height() == pytest.approx(1, rel=1e-5)
    assert bar_texts(ax) == ["zeros 25 %"]
    # Left of all values.
    assert bar.get_x() + bar.get_width() < ax.patches[0].get_x()


def bar_texts(ax):
    """The words at the bars of mass, from the right."""
    return [text.get_text() for child in ax.child_axes for text in child.texts]


def of_diagonal(*values):
    return Spectrum.of_jacobians(np.diag(np.array(values, float)))


def area(ax):
    return sum(bar.get_height() * bar.get_width() for bar in ax.patches)


def visible(ax):
    """The limits that are drawn."""
    ax.figure.draw_without_rendering()
    return ax.get_xlim()


def test_unresolved_values_are_not_called_zeros(ax):
    """1e-9 is below the rounding floor of single precision, and not zero."""
    sp = of_diagonal(1, 1, 0.1, 1e-9, 0, 0, 0, 0)
    plots.spectrum(sp, ax, bins=4)
    assert bar_texts(ax) == ["zeros 50 %", "unresolved 12 %"]
    zeros, unresolved = ax.child_axes[0].patches
    assert (zeros.get_height(), unresolved.get_height()) == (0.5, 0.125)
    assert not unresolved.get_fill()
    assert area(ax) == pytest.approx(1 - 0.625)
    assert ax.child_axes[0].get_ylim() == (0, 1)


def test_values_that_are_not_finite_have_a_bar(ax):
    log_values = np.array([[0.0, -1.0], [np.nan, np.nan]])
    weights = np.full((2, 2), 0.5)
    sp = Spectrum(log_values, weights, np.full(2, -12.0), Dense(), 2)
    plots.spectrum(sp, ax, bins=4)
    assert bar_texts(ax) == ["not finite 50 %"]
    assert area(ax) == pytest.approx(0.5)


def test_a_spectrum_of_zeros_is_not_an_empty_axis(ax):
    plots.spectrum(of_diagonal(0, 0, 0), ax)
    assert bar_texts(ax) == ["zeros 100 %"]
    (bar,) = ax.child_axes[0].patches
    left, right = visible(ax)
    assert left < bar.get_x() < right
    bottom, top = ax.get_ylim()
    assert bottom == 0
    assert top >= 1


@pytest.mark.parametrize("bins", [7, 40])
def test_an_isometry_is_one_bar_in_the_middle(ax, bins):
    """Singular values of an orthogonal matrix are 1 up to rounding."""
    rotation = np.linalg.qr(RNG.normal(size=(4, 1, 9, 9)))[0]
    plots.spectrum(Spectrum.of_jacobians(rotation), ax, bins=bins)
    tall = [bar for bar in ax.patches if bar.get_height() > 0]
    assert len(tall) == 1
    assert area(ax) == pytest.approx(1)
    left, right = visible(ax)
    assert 0.9 < right - left < 2
    assert not ax.child_axes


def test_bars_of_two_spectra_are_apart_and_in_view(ax):
    """The second reaches lower, so that the bars of the first have to move."""
    plots.spectrum(of_diagonal(1, 0.5, 0, 0), ax, bins=4, color="#0072B2")
    plots.spectrum(
        of_diagonal(1, 1e-3, 0, 0), ax, bins=4, histtype="step", edgecolor="#D55E00"
    )
    (strip,) = ax.child_axes
    first, second = strip.patches
    assert second.get_x() + second.get_width() < first.get_x()
    left, _ = visible(ax)
    assert left < second.get_x()
    assert first.get_x() + first.get_width() < -3
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in strip.patches]
    assert [colour.upper() for colour in colours] == ["#0072B2", "#D55E00"]
    assert [text.get_color().upper() for text in strip.texts] == ["#0072B2", "#D55E00"]
    assert not overlapping(strip.texts)


def overlapping(texts):
    """Pairs of texts whose boxes overlap, after the layout of their figure."""
    figure = texts[0].figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    return [
        (i, j)
        for i in range(len(boxes))
        for j in range(i)
        if boxes[i].overlaps(boxes[j])
    ]


def test_values_beyond_the_bins_are_not_in_the_histogram(reports, ax):
    sp = reports["gaussian"].spectra["end_to_end"]
    low = float(np.median(sp.log_values)) / np.log(10)
    plots.spectrum(sp, ax, bins=np.array([low, 9.0]))
    inside = np.mean(sp.log_values > low * np.log(10))
    assert inside == 0.5
    assert sum(b.get_height() * b.get_width() for b in ax.patches) == pytest.approx(
        inside, rel=1e-5
    )
    assert bar_texts(ax) == ["outside 50 %"]


def test_all_mass_is_drawn_if_the_bins_leave_out_values_on_both_sides(ax):
    """Of eight values two are below the bins, one is above and one is zero."""
    sp = of_diagonal(100, 10, 10, 1, 1, 0.1, 0.1, 0)
    plots.spectrum(sp, ax, bins=[-0.5, 0.5, 1.5])
    assert bar_texts(ax) == ["zeros 12 %", "outside 38 %"]
    zeros, outside = ax.child_axes[0].patches
    assert (zeros.get_height(), outside.get_height()) == (0.125, 0.375)
    assert not outside.get_fill()
    assert area(ax) == pytest.approx(0.5)
    left, _ = visible(ax)
    assert left < outside.get_x()


def test_ranks_draws_every_network_and_the_input_dimension(reports, ax):
    assert plots.ranks(reports, ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    bound = next(line for label, line in lines.items() if "input dimension" in label)
    assert set(bound.get_ydata()) == {6}
    for name, report in reports.items():
        line = next(
            line for label, line in lines.items() if label.startswith(f"{name} (")
        )
        assert "8×8" in line.get_label()
        np.testing.assert_array_equal(line.get_xdata(), report.probe.steps)
        np.testing.assert_array_equal(
            line.get_ydata(), np.median(report.probe.gradient_rank[:, :, 0], 0)
        )


def with_ranks(report, name, ranks):
    """A report of three records, with these ranks in all five seeds."""
    by_seed = np.broadcast_to(np.array(ranks)[None, :, None], (5, 3, 1))
    probe = replace(report.probe, gradient_rank=by_seed)
    return replace(report, network=name, probe=probe)


def test_lines_that_coincide_are_named_together_and_drawn_thinner(reports, ax):
    base = reports["gaussian"]
    ranks = {"first": [2, 5, 8], "second": [2, 5, 8], "third": [1, 3, 3]}
    drawn = {name: with_ranks(base, name, of) for name, of in ranks.items()}
    plots.ranks(drawn, ax)
    words = [text.get_text().replace("\n", " ") for text in ax.texts]
    assert words == ["third", "input dimension N$_x$ = 6", "first, second"]
    first, second, third = [line for line in ax.lines if "×" in line.get_label()]
    assert second.get_linewidth() < first.get_linewidth()
    assert second.get_markersize() < first.get_markersize()
    assert second.get_linestyle() != first.get_linestyle()
    assert third.get_linewidth() == first.get_linewidth()
    # No line is moved to make it visible.
    assert first.get_ydata().tolist() == second.get_ydata().tolist() == [2, 5, 8]


def test_names_of_neighbouring_ranks_do_not_overlap(reports, ax):
    base = reports["gaussian"]
    ends = {f"network {rank}": [1, 2, rank] for rank in (60, 61, 62, 64)}
    drawn = {name: with_ranks(base, name, of) for name, of in ends.items()}
    plots.ranks(drawn, ax)
    assert not overlapping(ax.texts)


def test_widths_have_one_entry_in_the_legend(reports, ax):
    base = with_ranks(reports["gaussian"], "net", [2, 4, 4])
    by_width = {width: np.array([[2], [4], [4]]) for width in (8, 16, 32)}
    widths = {"gradient_rank": by_width, "steps": base.probe.steps}
    plots.ranks({"net": replace(base, widths=widths)}, ax)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == [
        "net (8×8)",
        "net, widths 8, 16, 32",
        "input dimension N$_x$ = 6",
    ]
    words = [text.get_text().replace("\n", " ") for text in ax.texts]
    assert words[0] == "net, net at width 8, 16, 32"


def test_ranks_without_a_probe_are_empty(shallow, ax):
    assert plots.ranks(shallow, ax) is ax
    assert not ax.lines


def test_the_audit_has_a_panel_a_network(reports):
    figure = plots.audit(reports)
    assert isinstance(figure, Figure)
    assert [a.get_title() for a in figure.axes[:-1]] == list(reports)
    figure.draw_without_rendering()


def test_the_audit_of_one_network(reports):
    figure = plots.audit(Reports({"gaussian": reports["gaussian"]}))
    assert len(figure.axes) == 2
    figure.draw_without_rendering()


def test_the_audit_of_depth_one_without_a_probe(shallow):
    figure = plots.audit(shallow)
    assert "no training probe" in [t.get_text() for t in figure.axes[-1].texts]
    figure.draw_without_rendering()


def records(missed=0, **values):
    return Records(
        np.array([0, 10, 20]),
        {name: np.asarray(v, float) for name, v in values.items()},
        missed,
    )


def test_a_timeline_draws_means_over_inputs_and_their_range(ax):
    found = records(s_min=[[1, 3], [2, 4], [3, 5]], s_max=[20, 30, 40], missed=2)
    assert plots.timeline(found, ax) is ax
    assert not ax.child_axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(
        found.values
    )
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines == {"s_min": [2, 3, 4], "s_max": [20, 30, 40]}
    assert len(ax.collections) == 1  # the band of the one that has inputs
    assert ax.get_yscale() == "log"
    assert "2 later records" in ax.get_title()


def test_statistics_of_different_units_have_panels_of_their_own(ax):
    found = records(
        s_max=[1, 100, 1000],
        effective_rank=[60, 50, 40],
        zero_fraction=[0.1, 0.2, 0.3],
        s_median=[0.5, 0.5, 0.5],
        stable_rank=[6, 5, 4],
        mine=[-1, 0, 1],
        missed=1,
    )
    assert plots.timeline(found, ax) is ax
    drawn = [[line.get_label() for line in panel.lines] for panel in ax.child_axes]
    assert drawn == [
        ["s_max", "s_median"],
        ["effective_rank", "stable_rank"],
        ["zero_fraction"],
        ["mine"],
    ]
    scales = [panel.get_yscale() for panel in ax.child_axes]
    assert scales == ["log", "linear", "linear", "linear"]
    ax.figure.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in ax.child_axes]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 > below.y1
    # Each panel has its own values and the same steps.
    for panel in ax.child_axes:
        low, high = panel.get_ylim()
        values = np.concatenate([line.get_ydata() for line in panel.lines])
        assert low < values.min()
        assert values.max() < high
        assert high - low < 2 * np.ptp(values)
        assert panel.get_xlim() == ax.child_axes[0].get_xlim()
    assert "1 later record" in ax.get_title()
    assert ax.child_axes[-1].get_xlabel() == "training step"


def test_a_statistic_that_is_zero_does_not_share_an_axis_with_a_large_one(ax):
    plots.timeline(records(s_min=[1e-3, 0, 0], s_max=[1, 10, 100]), ax)
    small, large = ax.child_axes
    assert small.lines[0].get_ydata().tolist() == [1e-3, 0, 0]
    assert small.get_yscale() == "linear"
    assert small.get_ylim()[1] < 2e-3
    assert large.get_yscale() == "log"


def test_statistics_that_coincide_are_told_apart(ax):
    same = [0.25, 0.5, 0.5]
    plots.timeline(records(zero_fraction=same, exact_zero_fraction=same), ax)
    first, second = ax.lines
    assert second.get_linewidth() < first.get_linewidth()
    assert second.get_markersize() < first.get_markersize()
    assert second.get_linestyle() != first.get_linestyle()
    assert second.get_markerfacecolor() == "none"


def test_a_timeline_marks_the_steps_that_are_not_finite(ax):
    plots.timeline(records(deviation=[0, np.nan, 2]), ax)
    line, crosses = ax.lines
    assert line.get_xdata().tolist() == [0, 20]
    assert crosses.get_xdata().tolist() == [10]
    assert crosses.get_label() == "not finite"
    # At the bottom, whatever the values are.
    assert crosses.get_transform() == ax.get_xaxis_transform()
    assert 0 < crosses.get_ydata()[0] < 0.2
    assert ax.get_yscale() == "linear"
    assert not ax.get_title()


def test_a_tracer_is_a_type_error(reports, ax):
    sp = reports["gaussian"].spectra["end_to_end"]
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda s: plots.spectrum(s, ax))(sp)


LAW = theory.jacobian_law(
    "hard_tanh", 4, q=0.25
)  # atoms at 0 and at p^-4, a continuous part between


@pytest.fixture(scope="module")
def measured():
    """Quantiles of the law as if measured; the last value of each is an exact zero."""
    ranks = (np.arange(64) + 0.5) / 64
    log_s = np.maximum(np.asarray(LAW.quantile(ranks, "log_s")), -30)[::-1]
    log_s = np.where(log_s == -30, -np.inf, log_s) * np.ones((4, 1, 1))
    return Spectrum(
        log_s,
        np.full((4, 1, 64), 1 / 64),
        np.full((4, 1), -32.0),
        Dense(),
        64,
        0,
        "hidden",
        4,
    )


@pytest.mark.parametrize(
    ("variable", "scale"),
    [("s", "log"), ("lam", "log"), ("s", "linear"), ("lam", "linear")],
)
def test_overlay_draws_equal_masses(measured, ax, variable, scale):
    """The measure is the law's own: bars and line hold the mass off the atoms."""
    assert (
        plots.overlay(measured, LAW, ax, variable=variable, scale=scale, bins=24) is ax
    )
    (bars,) = [p for p in ax.patches if p.get_label() == "measured"]
    heights, edges, _ = bars.get_data()
    drawn = float(heights @ np.diff(edges))
    atoms = {a.lam > 0: a.mass for a in LAW.atoms}
    assert drawn == pytest.approx(1 - sum(atoms.values()), abs=2 / 64)
    (line,) = [entry for entry in ax.lines if entry.get_label() == "predicted"]
    x, y = line.get_data()
    if scale == "log":
        assert np.trapezoid(y, x) == pytest.approx(1 - sum(atoms.values()), abs=0.01)
    at = x[len(x) // 2]
    log_s = {"s": 1, "lam": 0.5}[variable] * (
        at * math.log(10) if scale == "log" else math.log(at)
    )
    step = 1e-4
    steps = np.array([-2, -1, 1, 2]) * step
    masses = LAW.cdf(log_s + steps, "log_s")
    density = (masses[2] - masses[1]) / (2 * step)
    wider = (masses[3] - masses[0]) / (4 * step)
    # The error of a central difference is a third of what twice its step changes, and
    # rounding of two masses below 1.
    error = abs(wider - density) + 2 * np.finfo(float).eps / step
    rate = {"s": 1, "lam": 2}[variable] * (1 / math.log(10) if scale == "log" else at)
    assert rate * y[len(x) // 2] == pytest.approx(density, rel=0, abs=error)
    (right,) = [a for a in ax.figure.axes if a is not ax]
    masses = sorted(p.get_height() for p in right.patches)
    assert masses == pytest.approx(sorted([*atoms.values()] * 2), abs=1 / 64)
    assert {"s": "s", "lam": "λ"}[variable] in ax.get_xlabel()
    assert ("log" in ax.get_xlabel()) == (scale == "log")
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[:2] == ["measured", "predicted"]
    ax.figure.draw_without_rendering()


def test_overlay_shades_what_is_below_the_floor(measured):
    """A figure of its own, and no bar of data below the floor."""
    law = theory.jacobian_law("relu", 16, q=1.0, weights="gaussian")
    log_s = np.linspace(1.0, -20.0, 64) * np.ones((4, 1, 1))
    sp = replace(measured, log_values=log_s, log_floor=np.full((4, 1), -9.0), pairs=16)
    ax = plots.overlay(sp, law)
    (shade,) = [p for p in ax.patches if p.get_label() == "below the floor"]
    assert shade.get_x() + shade.get_width() == pytest.approx(-8 / math.log(10))
    (bars,) = [p for p in ax.patches if p.get_label() == "measured"]
    heights, edges, _ = bars.get_data()
    assert not heights[edges[1:] < -8 / math.log(10)].any()
    zeros = float(np.asarray(sp.zero_fraction()).mean())
    assert float(heights @ np.diff(edges)) == pytest.approx(1 - zeros, rel=1e-6)


def overlay_masses(ax):
    """All mass that is drawn: the measured one, and the predicted one."""
    (bars,) = [p for p in ax.patches if p.get_label() == "measured"]
    heights, edges, _ = bars.get_data()
    (line,) = [entry for entry in ax.lines if entry.get_label() == "predicted"]
    x, y = line.get_data()
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    measured, predicted = twin.containers
    in_bins = float(heights @ np.diff(edges))
    return (
        in_bins + sum(bar.get_height() for bar in measured),
        np.trapezoid(y, x) + sum(bar.get_height() for bar in predicted),
    )


def test_overlay_shows_what_one_matrix_resolves_below_the_floor_of_another(
    measured, ax
):
    """One of four matrices is 1e9 times larger, and so is its floor."""
    law = theory.jacobian_law("tanh", 4, q=0.5, weights="gaussian")
    ranks = (np.arange(64) + 0.5) / 64
    log_s = np.asarray(law.quantile(ranks, "log_s"))[::-1] * np.ones((4, 1, 1))
    log_s[0] += 9 * math.log(10)
    floor = np.full((4, 1), -7 * math.log(10))
    sp = replace(measured, log_values=log_s, log_floor=floor)
    plots.overlay(sp, law, ax)
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    assert [text.get_text() for text in twin.texts] == ["0", "outside the bins"]
    assert max(bar.get_height() for bar in twin.patches) > 0.5
    assert overlay_masses(ax) == pytest.approx((1, 1), abs=0.01)
    left, _ = visible(ax)
    assert all(left < bar.get_x() for bar in twin.patches)


@pytest.mark.parametrize("atom_is_in_bins", [True, False])
def test_overlay_shows_the_mass_outside_its_bins(measured, ax, atom_is_in_bins):
    """The last edge is the atom of the law off zero, or far below it."""
    top = math.log10(LAW.atoms[-1].lam) / 2
    middle = 1 - LAW.atoms[-1].mass - 0.5 * (1 - sum(a.mass for a in LAW.atoms))
    low = float(LAW.quantile(middle, "log_s")) / math.log(10)
    if not atom_is_in_bins:
        top = (top + low) / 2
    plots.overlay(measured, LAW, ax, bins=np.linspace(low, top, 9))
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    num_pairs = 3 if atom_is_in_bins else 2
    assert [len(bars) for bars in twin.containers] == [num_pairs, num_pairs]
    assert overlay_masses(ax) == pytest.approx((1, 1), abs=0.02)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_overlay_of_an_isometry_shows_both_bars_in_readable_limits(measured, ax, scale):
    """All values are 1 up to rounding, and so is the law of linear rotations."""
    rounding = RNG.uniform(-1e-7, 1e-7, (4, 1, 64))
    sp = replace(measured, log_values=np.sort(rounding)[..., ::-1])
    law = theory.jacobian_law("linear", 4, q=1.0)
    plots.overlay(sp, law, ax, scale=scale)
    left, right = ax.get_xlim()
    assert 0.1 < right - left < 2
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    shown = [bar for bar in twin.patches if bar.get_height() > 0]
    assert [bar.get_height() for bar in shown] == pytest.approx([1, 1])
    for bar in shown:
        assert left < bar.get_x()
        assert bar.get_x() + bar.get_width() < right


def test_overlay_refuses_what_does_not_belong_together(measured, ax):
    with pytest.raises(InputError, match="3 pairs"):
        plots.overlay(measured, theory.fuss_catalan(3), ax)
    with pytest.raises(InputError, match="log, linear"):
        plots.overlay(measured, LAW, ax, scale="ln")
    with pytest.raises(InputError, match="s, lam"):
        plots.overlay(measured, LAW, ax, variable="log_s")


def test_laws_draws_a_line_each():
    figure = plots.laws(
        {
            "orthogonal": LAW,
            "gaussian": theory.jacobian_law("hard_tanh", 4, q=0.25, weights="gaussian"),
        }
    )
    main, right = figure.axes
    assert len(main.lines) == 2
    assert [max(line.get_ydata()) for line in right.lines] == [
        pytest.approx(LAW.atoms[-1].mass)
    ]
    figure.draw_without_rendering()


def test_the_audit_draws_the_law_or_says_why_not(reports):
    figure = plots.audit(reports)
    without, with_law = figure.axes[:2]
    assert any(
        "no law is known of" in t.get_text().replace("\n", " ") for t in without.texts
    )
    assert not [line for line in without.lines if "predicted" in line.get_label()]
    # Words are above the panel, where they hide no data.
    assert all(text.xy == (0, 1) for text in without.texts)
    (line,) = [line for line in with_law.lines if "predicted" in line.get_label()]
    x, y = line.get_data()
    density = reports["gaussian"].law.density(x * math.log(10), "log_s") * math.log(10)
    is_inside = y > 0
    assert is_inside.any()
    np.testing.assert_allclose(y[is_inside], density[is_inside], rtol=1e-6)


def zero_network(report):
    """The report of a network whose Jacobians are zero."""
    sp = Spectrum.of_jacobians(np.zeros((5, 2, 3, 3)))
    spectra = {"end_to_end": sp, "hidden": sp}
    return replace(report, spectra=spectra, law=None, no_law=NO_LAW)


def test_the_audit_shows_zeros_as_mass_on_a_common_axis(reports):
    figure = plots.audit({"zeros": zero_network(reports["xavier"]), **reports})
    zeros, *others = figure.axes[:-1]
    assert bar_texts(zeros) == ["zeros 100 %", "zeros 100 %"]
    assert not any(bar_texts(ax) for ax in others)
    figure.draw_without_rendering()
    assert len({ax.get_xlim() for ax in figure.axes[:-1]}) == 1
    left, _ = zeros.get_xlim()
    assert all(left < bar.get_x() for bar in zeros.child_axes[0].patches)
    assert not overlapping(zeros.child_axes[0].texts)


def test_the_audit_shows_the_zeros_that_the_law_predicts(reports):
    """A ReLU passes half of the directions of one layer (Pennington et al., 2017)."""
    law = theory.jacobian_law("relu", 1, q=1.0)
    report = replace(reports["gaussian"], law=law, no_law="")
    (panel, _) = plots.audit({"relu": report}).axes
    assert bar_texts(panel) == ["zeros predicted 50 %"]
    (bar,) = panel.child_axes[0].patches
    assert bar.get_height() == pytest.approx(0.5)


@pytest.mark.parametrize("measured_at_one", [4, 2])
def test_the_atom_of_a_law_is_as_high_as_a_bar_of_its_mass(reports, measured_at_one):
    """All values of the law are 1; of the measured ones all are, or a half."""
    log_s = np.zeros((5, 2, 8))
    log_s[..., measured_at_one * 2 :] = -1.0
    hidden = replace(drawn_spectrum(8, "hidden"), log_values=log_s)
    law = theory.jacobian_law("linear", 4, q=1.0)
    report = replace(reports["gaussian"], spectra={"hidden": hidden}, law=law)
    (panel, _) = plots.audit({"linear": report}).axes
    (outline,) = panel.patches
    heights = outline.get_xy()[:, 1]
    stems = [line for line in panel.lines if line.get_marker() == "_"]
    (stem,) = [line.get_ydata()[1] for line in stems]
    assert stem * measured_at_one / 4 == pytest.approx(heights.max(), rel=1e-6)
    assert stem < panel.get_ylim()[1]
    assert "beyond the panel" not in panel.get_legend_handles_labels()[1]


def test_the_audit_marks_where_a_density_is_higher_than_the_panel(reports):
    """Slopes of tanh at small signals are close to 1, and measured values far apart."""
    law = theory.jacobian_law("tanh", 1, q=0.01)
    report = replace(reports["gaussian"], law=law, no_law="")
    (panel, _) = plots.audit({"tanh": report}).axes
    lines = {line.get_label(): line for line in panel.lines}
    x, y = lines["hidden layers, predicted"].get_data()
    density = law.density(x * math.log(10), "log_s") * math.log(10)
    np.testing.assert_allclose(y, density, rtol=1e-6)
    top = panel.get_ylim()[1]
    marks = lines["beyond the panel"]
    assert marks.get_marker() == "^"
    is_high = y > top
    assert is_high.any()
    (place,) = marks.get_xdata()
    assert x[is_high].min() <= place <= x[is_high].max()


def test_no_network_of_an_audit_loses_its_values_among_many_others(reports):
    """One in a thousand of all values, which are all values of one spectrum."""
    large = Spectrum.of_jacobians(np.eye(1000)[None, None])
    small = Spectrum.of_jacobians(1e-3 * np.eye(1)[None, None])
    base = replace(reports["xavier"], probe=None)
    spectra = {"large": large, "small": small}
    named = {
        name: replace(base, spectra={"hidden": sp}) for name, sp in spectra.items()
    }
    for panel in plots.audit(named).axes[:2]:
        assert bar_texts(panel) == []
        (outline,) = panel.patches
        assert outline.get_xy()[:, 1].max() > 0


def test_the_audit_shows_the_few_values_left_of_its_axis_as_mass(reports):
    """One value in a thousand is far below the others."""
    values = np.ones(1000)
    values[-1] = 1e-3
    sp = Spectrum.of_jacobians(np.diag(values)[None, None])
    report = replace(reports["xavier"], spectra={"hidden": sp})
    (panel, _) = plots.audit({"one": report}).axes
    assert bar_texts(panel) == ["outside 0.1 %"]


def written(figure):
    """The texts of a figure, as they are drawn."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    return html.unescape(file.getvalue())


# What stands between the dollars would be an error in a formula.
DOLLARS = r"a_$\frac$"


def test_dollars_in_the_texts_of_an_audit_begin_no_formula(reports):
    one = report_of("net", None, f"no law is known of {DOLLARS}")
    probe = replace(one.probe, layers=(f"{DOLLARS}!",))
    flag = replace(one.flags["rank_constrained_training"], name=f"{DOLLARS}?")
    flags = {**one.flags, flag.name: flag}
    widths = {
        "steps": np.arange(3),
        "gradient_rank": {width: np.ones((3, 1)) for width in (8, 16, 32)},
    }
    one = replace(one, probe=probe, flags=flags, widths=widths)
    named = Reports({DOLLARS: one, "b$c": reports["gaussian"]})
    text = written(plots.audit(named))
    for words in (
        f"no law is known of {DOLLARS}",
        f"{DOLLARS} ({DOLLARS}!, 8×8)",
        f"{DOLLARS} at width",
        f"{DOLLARS}, widths 8, 16, 32",
        f"{DOLLARS}?",
        "b$c",
    ):
        assert words in text, words


def test_dollars_in_other_names_begin_no_formula(ax):
    law = theory.fuss_catalan(1)
    assert f">{DOLLARS}<" in written(plots.laws({DOLLARS: law}))
    values = {DOLLARS: np.ones((2, 1))}
    records = Records(steps=np.arange(2), values=values, missed=0)
    assert f">{DOLLARS}<" in written(plots.timeline(records, ax).figure)


def test_the_audit_of_what_was_not_measured_is_not_an_empty_panel(reports):
    reason = "not measured: the parameters hold a NaN"
    report = replace(reports["xavier"], spectra={}, law=None, no_law=reason)
    figure = plots.audit({"broken": report, **reports})
    words = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert "not measured" in words
    assert reason in words


@pytest.mark.parametrize("num_networks", [1, 2, 7, 12])
def test_the_audit_is_as_wide_as_a_page_with_legible_letters(reports, num_networks):
    named = {}
    for index in range(num_networks):
        base = (reports["xavier"], reports["gaussian"])[index % 2]
        named[f"network {index}"] = base
    figure = plots.audit(named)
    assert figure.get_figwidth() == 7.2
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text)]
    assert min(sizes) >= 6.5
    for ax in figure.axes[:-1]:
        # The density has a scale.
        low, high = ax.get_ylim()
        labels = [
            label.get_text()
            for label, place in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)
            if low <= place <= high
        ]
        assert len([label for label in labels if label]) >= 2
    # All lines are told apart: none has the colour and the mark of another.
    lines = [line for line in figure.axes[-1].lines if "×" in line.get_label()]
    styles = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(styles) == num_networks


@pytest.mark.parametrize("sigma_w", [1e-40, 1e40])
def test_laws_beyond_the_exponents_are_drawn(sigma_w):
    """s_max under- or overflows; log s does not."""
    law = theory.jacobian_law("relu", 10, q=1.0, sigma_w=sigma_w)
    assert law.s_max in (0.0, math.inf)
    line = plots.laws({"deep": law}).axes[0].lines[0]
    assert np.isfinite(line.get_xydata()).all()
    assert line.get_xdata()[-1] == pytest.approx(10 * math.log10(sigma_w), abs=1)


SP = Spectrum(np.zeros(2), np.full(2, 0.5), np.array(-10.0), Dense(), 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda ax: plots.spectrum(3, ax),
            r"plots\.spectrum\(\): sp=3 is not a Spectrum",
        ),
        (
            lambda ax: plots.spectrum(SP, None),
            r"plots\.spectrum\(\): ax=None is not an Axes; write plt\.subplots",
        ),
        (
            lambda ax: plots.spectrum(SP, ax, bins=-1),
            r"plots\.spectrum\(\): bins=-1 must be a whole number",
        ),
        (
            lambda ax: plots.spectrum(SP, ax, bins=[3, 2]),
            r"bins=\[3, 2\] are not edges; write two or more that rise",
        ),
        (
            lambda ax: plots.timeline(3, ax),
            r"plots\.timeline\(\): records=3 is not a Records",
        ),
        (
            lambda ax: plots.ranks({}, ax),
            r"plots\.ranks\(\): reports=\{\} holds no names; write \{\"name\": \.",
        ),
        (
            lambda ax: plots.audit({"a": 3}),
            r"plots\.audit\(\): reports\['a'\]=3 is not a Report",
        ),
        (
            lambda ax: plots.laws([LAW]),
            r"plots\.laws\(\): named=\[Law.* holds no names",
        ),
    ],
)
def test_what_is_refused(ax, call, words):
    with pytest.raises(InputError, match=words):
        call(ax)
