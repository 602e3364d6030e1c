"""Reports as text: the verdict in words, the table of networks, the table of layers."""

import dataclasses

import numpy as np
import pytest

import isometry
from isometry.verdicts._layers import LayerRow
from isometry.verdicts._table import numbers_of
from tests.verdicts.measuring import spectrum

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
    everything = reports["near"].statistics() | {"zero_fraction": 1.0}
    assert numbers_of(everything)[-1] == "100 %"


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
