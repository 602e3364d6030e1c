"""Reports as text: the verdict in words, the table of networks, the table of layers."""

import dataclasses
import itertools

import numpy as np
import pytest

import isometry
from isometry.verdicts._layers import LayerRow
from isometry.verdicts._table import COLUMNS, numbers_of
from tests.verdicts.measuring import spectrum
from tests.verdicts.pages import Page

pytest.importorskip("rich")

WIDE = 160


def flag(name, state, *, where=(), interval=None):
    """Return a flag whose texts are long enough to be broken."""
    return isometry.Flag(
        name,
        state,
        f"half of the units of {name} do nothing for any input and whatever target",
        remedy="draw every weight at random: orthogonal, or Gaussian at its own scale",
        value=-4.1,
        interval=interval,
        threshold=-3.0,
        source="six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)",
        where=where,
    )


ROWS = (
    LayerRow(
        layer="encoder/block_0/attention/query",
        shape=(64, 4, 16),
        q=0.5,
        chi=None,
        gradient=0.0,
        distinct=(64, 3, 16),
        never_moves=0.25,
        flags=("zero_gradient",),
    ),
    LayerRow(
        layer="head",
        shape=(64, 10),
        q=1.0,
        chi=0.9,
        gradient=2.0,
        distinct=(64, 10),
        never_moves=0.0,
        flags=(),
    ),
)


def report(*flags, s=(1.0, 0.5, 0.25), seeds=5):
    """Return a report of given flags."""
    return isometry.Report(
        network="mlp([6, 8, 8, 3], activation='tanh', scheme=Scheme('orthogonal'))",
        flags={one.name: one for one in flags},
        spectra={"end_to_end": spectrum(np.broadcast_to(s, (seeds, 2, 3)))},
        probe=None,
        widths=None,
        setting={"seeds": seeds, "inputs": 2, "span": ("embed", "output")},
        provenance={},
        rows=ROWS,
    )


@pytest.fixture(scope="module")
def reports():
    names = tuple(f"block_{i}/dense" for i in range(9))
    worst = report(
        flag("zero_gradient", "raised", where=names),
        flag("vanishing", "raised", interval=(-4.3, -3.9)),
        flag("exploding", "clear"),
    )
    slow = report(
        flag("zero_gradient", "clear"),
        flag("vanishing", "raised"),
        flag("exploding", "undecided"),
    )
    clear = report(*(flag(name, "clear") for name in worst.flags))
    near = dataclasses.replace(
        clear, spectra={"end_to_end": spectrum(np.ones((5, 2, 3)))}
    )
    by_name = {"worst": worst, "slow": slow, "clear": clear, "near": near}
    return isometry.Reports(by_name, {"none": "of no shape [n, n]"})


def test_a_verdict_says_what_where_how_sure_and_what_to_do(reports):
    text = str(reports["worst"])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("RAISED: mlp(")
    assert "5 seeds × 2 inputs; the Jacobian begins at 'embed'" in text
    assert "zero_gradient: half of the units" in text
    assert "where  block_0/dense, block_1/dense" in text
    # Nine names, of which six are shown.
    assert "3 more" in text
    assert "sure   -4.3 to -3.9 over seeds; the threshold is -3" in text
    assert "do     draw every weight at random" in text
    assert lines[-1] == "clear: exploding"


def test_a_healthy_network_is_not_announced_as_raised():
    """A spectrum that is not isometric slows training; what is grave comes first."""
    mild = report(flag("anisometric", "raised"), flag("vanishing", "clear"))
    assert str(mild).startswith("NOTHING GRAVE: mlp(")
    assert mild.verdict == "raised"
    grave = report(flag("anisometric", "raised"), flag("vanishing", "raised"))
    assert str(grave).startswith("RAISED: mlp(")
    unknown = report(flag("anisometric", "raised"), flag("vanishing", "undecided"))
    assert str(unknown).startswith("RAISED: mlp(")


@pytest.mark.parametrize(
    ("kind", "head", "grave"),
    [("recovering", "NOTHING GRAVE", 0), ("permanent", "RAISED", 1)],
)
def test_a_gradient_that_recovers_is_nothing_grave(kind, head, grave):
    """Behind a last layer of zeros it arrives at the second step (Fixup, ZerO)."""
    zero = dataclasses.replace(flag("zero_gradient", "raised"), evidence={"kind": kind})
    one = report(zero, flag("vanishing", "clear"))
    assert str(one).startswith(f"{head}: mlp(")
    assert one.score[:2] == (grave, 1 - grave)


def test_the_head_says_of_which_modes_it_speaks():
    one = report(flag("vanishing", "clear"))
    one.setting["mode_of_training"] = "training"
    text = " ".join(str(one).split())
    assert "Jacobians and signals: inference mode" in text
    assert "certificates: training mode" in text


def test_undecided_flags_have_a_line_with_their_reason(reports):
    assert "undecided: exploding: half of the units" in str(reports["slow"])


def test_what_a_notebook_shows_is_the_verdict_and_its_reasons(reports):
    one = reports["slow"]
    assert repr(one) == f"Report({one.network}: raised; {one.reason})"
    assert "clear: clear" in repr(reports)
    assert all(len(repr(flag)) < 1000 for flag in one.flags.values())


def test_networks_are_ranked_by_gravity_then_by_isometry(reports):
    """Grave flags, other flags, undecided ones, then √E(s − 1)²: 0 of the identity."""
    assert reports.ranking() == ["near", "clear", "slow", "worst"]
    assert list(reports) == ["worst", "slow", "clear", "near"]
    assert reports["worst"].score[:3] == (1, 1, 0)
    assert reports["slow"].score[:3] == (0, 1, 1)
    assert reports["near"].score == (0, 0, 0, 0)
    rows = reports.table(width=WIDE).splitlines()
    places = [i for i, row in enumerate(rows) if row.startswith(("│near", "│worst"))]
    assert len(places) == 2
    assert "near" in rows[places[0]]


@pytest.mark.parametrize("width", [40, 80])
def test_in_a_narrow_terminal_the_table_loses_nothing(width, reports):
    lines = reports.table(width=width).splitlines()
    assert max(map(len, lines)) <= width
    said = "".join("".join(lines).split()).replace("│", "").replace("┃", "")
    for one in reports.values():
        assert f"{one.verdict}:" in said
    assert "σ_max1," in said
    assert "…" not in said


def test_brackets_in_names_are_no_markup(reports):
    text = isometry.Reports(
        {"wide[bold]": reports["near"]}, {"deep[red]": "of no shape [n, n]"}
    ).table(width=WIDE)
    for words in ("wide[bold]", "deep[red]", "of no shape [n, n]"):
        assert words in text


def test_all_is_a_hundred_percent(reports):
    """Of a zero Jacobian; and not of one of which one value in 30,000 is not zero."""
    nothing = report(flag("vanishing", "clear"), s=(0.0, 0.0, 0.0))
    assert numbers_of(nothing) == ["0", "0", "0", "0", "1", "0.00/3", "100 %"]
    almost = np.zeros((5, 2, 3000))
    almost[0, 0, 0] = 1.0
    spectra = {"end_to_end": spectrum(almost)}
    assert numbers_of(dataclasses.replace(nothing, spectra=spectra))[-1] == "> 99.9 %"


def test_an_exact_zero_elsewhere_makes_nothing_else_zero():
    """Of 2, 1, 1e-9 and 0 the median is 1e-9, below the floor 2e^-14 = 1.66e-6."""
    s = np.broadcast_to([2.0, 1e-9, 1e-9], (5, 2, 3)).copy()
    s[0, 0, 2] = 0.0
    one = report(flag("vanishing", "clear"))
    one = dataclasses.replace(one, spectra={"end_to_end": spectrum(s)})
    assert numbers_of(one)[:3] == ["< 1.7e-06", "< 1.7e-06", "2"]


@pytest.mark.parametrize(("shift", "power"), [(-51, "e-51"), (400, "e+400")])
def test_numbers_beyond_the_range_of_floats_are_written(shift, power):
    """s = 2 and 1 times 10^shift: s_max 2, mean square 2.5, effective rank e^H(2/3)."""
    sp = spectrum(np.broadcast_to([2.0, 1.0], (5, 2, 2)))
    logs = np.asarray(sp.log_values) + shift * np.log(10)
    far = dataclasses.replace(sp, log_values=logs)
    one = dataclasses.replace(report(), spectra={"end_to_end": far})
    numbers = dict(zip(COLUMNS, numbers_of(one), strict=True))
    # At 10^-51 the deviation from isometry is 1, at 10^400 the root of E s².
    deviation = "1" if shift < 0 else "1.58" + power
    squared = "2.5" + power.replace("51", "102").replace("400", "800")
    assert numbers == {
        "s_min": "1" + power,
        "s_median": "1" + power,
        "s_max": "2" + power,
        "mean_s2": squared,
        "isometry_deviation": deviation,
        "effective_rank": "1.89/2",
        "zero_fraction": "0 %",
    }


def test_a_spectrum_that_is_not_finite_is_ranked_last_and_says_so():
    """NaN compares as false with everything, so that sorting by it sorts nothing."""
    good = report(flag("vanishing", "clear"), s=(1.0, 1.0, 1.0))
    worse = report(flag("vanishing", "clear"), s=(1.0, 0.5, 0.25))
    sp = spectrum(np.ones((5, 2, 3)))
    logs = np.zeros((5, 2, 3))
    logs[0, 0] = np.nan
    spectra = {"end_to_end": dataclasses.replace(sp, log_values=logs)}
    bad = dataclasses.replace(good, spectra=spectra)
    for names in itertools.permutations(("worse", "bad", "good")):
        by_name = {"worse": worse, "bad": bad, "good": good}
        ordered = isometry.Reports({name: by_name[name] for name in names})
        assert ordered.ranking() == ["good", "worse", "bad"]
    said = "bad: unknown: 1 of 10 Jacobians are not finite."
    text = ordered.table(width=WIDE)
    shown = Page(ordered._repr_html_()).words
    for words in (text, shown):
        assert "nan" not in words
        assert said in " ".join(words.split())
        assert "unknown" in words.replace(said, "")
    statistics = bad.as_dict()["spectra"]["end_to_end"]["statistics"]
    assert statistics["s_max"] is None
    reasons = statistics["why_unknown"]
    assert reasons["s_max"] == "1 of 10 Jacobians are not finite."
    assert set(reasons) == {name for name, value in statistics.items() if value is None}
    assert '"s_max": null' in bad.to_json()


def test_what_was_not_run_is_not_called_harmless():
    """A flag of what no training repairs tells nothing if it was not run."""
    one = report(flag("anisometric", "raised"), flag("locked_symmetry", "not_run"))
    assert str(one).startswith("RAISED: mlp(")


def test_layers_are_a_table_of_what_is_wrong(reports):
    heading, query, head = reports["worst"].layers().splitlines()
    assert max(map(len, (heading, query, head))) <= 88
    assert query.split() == [
        "encoder/bl…ntion/query",
        "64×4×16",
        "0.5",
        "0",
        "64×3×16",
        "25",
        "%",
        "zero_gradient",
    ]
    # Nothing is wrong with the head.
    assert head.split() == ["head", "64×10", "1", "0.9", "2"]


def test_a_span_that_was_not_measured_is_refused(reports):
    with pytest.raises(isometry.InputError, match="Did you mean 'end_to_end'"):
        reports["near"].statistics("end_to_ende")
