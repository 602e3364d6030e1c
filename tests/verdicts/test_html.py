"""The report as a page: what stands in it, that it is safe, and how it is written."""

import base64
import dataclasses
import errno
import hashlib
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate

import isometry
from isometry import theory
from isometry._internal import svg
from isometry.measure import _histogram
from isometry.verdicts import _definitions, _html, flag_names
from isometry.verdicts._html import _contents, _pictures
from tests.verdicts.measuring import spectrum
from tests.verdicts.pages import (
    EVIL,
    Page,
    S,
    certificate,
    finding,
    flag,
    malicious,
    quadrature,
    report,
    row,
)

pytest.importorskip("jinja2")

ROOT = pathlib.Path(__file__).parents[2]


def page_of(*reports):
    named = {f"net {i}": one for i, one in enumerate(reports)}
    return Page(_html.page(isometry.Reports(named)))


@pytest.fixture(scope="module")
def page():
    return page_of(report())


def test_verdict_reason_place_and_remedy_come_first(page):
    words = page.words
    said = (
        "Training hardly repairs what is wrong here.",
        "reason of zero_gradient",
        "where stem",
        "the threshold is 0",
        "mend zero_gradient",
        "1 undecided",
        "reason of vanishing",
        "Singular values of the Jacobian end to end",
    )
    places = [words.index(text) for text in said]
    assert places == sorted(places)


def test_the_gravest_network_is_first_and_the_best_heads_the_table():
    clear = report(flag("zero_gradient", "clear"))
    words = page_of(clear, report()).words
    assert "1 with faults that training hardly repairs; 1 clear" in words
    cards = words.index("What is wrong, and what to do")
    table = words.index("The best network is first")
    for start, names in ((cards, ("net 1", "net 0")), (table, ("net 0", "net 1"))):
        first, second = (words.index(name, start) for name in names)
        assert first < second


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ({"zero_gradient": "raised", "anisometric": "raised"}, "grave"),
        ({"vanishing": "raised", "zero_gradient": "undecided"}, "slow"),
        ({"anisometric": "raised", "vanishing": "undecided"}, "doubtful"),
        ({"anisometric": "raised", "vanishing": "clear"}, "mild"),
        ({"anisometric": "raised", "locked_symmetry": "not_run"}, "doubtful"),
        ({"anisometric": "raised", "below_floor": "not_run"}, "mild"),
        ({"vanishing": "undecided", "exploding": "clear"}, "undecided"),
        ({"vanishing": "clear", "exploding": "not_run"}, "clear"),
    ],
)
def test_the_meaning_of_a_verdict_follows_the_gravest_flag(states, kind):
    one = report(*(flag(name, state) for name, state in states.items()))
    assert _contents.network("net", one).kind == kind


def test_names_from_the_user_are_text_everywhere():
    """No element, attribute or address comes from a name, and every name is read."""
    text = _html.page(malicious())
    page = Page(text)
    for kind in ("script", "style", "main", "body"):
        assert page.tags.count(kind) == 1
    assert not {"img", "iframe", "object", "link", "base", "form"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not [name for name in names if name.startswith("on") or '"' in name]
    links = [value for name, value in page.attributes if name in ("href", "src")]
    assert all(value.startswith(("#", "https://arxiv.org/abs/")) for value in links)
    for evil in EVIL:
        assert evil in page.words
        # As text of an element, in an attribute, and inside of a picture.
        assert any(evil in str(value) for _, value in page.attributes)
        assert evil in page.inside_of("title")
        assert evil not in page.inside_of("style") + page.inside_of("script")
    # Jinja does not see what a name holds.
    assert "49</script>" not in page.words
    assert "<script>alert" not in text


def test_escaping_can_fail(monkeypatch):
    """Without it, the reader of this test finds what the names would add."""
    import jinja2

    class Careless(jinja2.Environment):
        def __init__(self, **settings):
            super().__init__(**{**settings, "autoescape": False})

    monkeypatch.setattr(jinja2, "Environment", Careless)
    page = Page(_html.page(malicious()))
    assert page.tags.count("script") > 1 or "img" in page.tags


def test_no_request_and_no_foreign_script_is_allowed(page):
    (policy,) = [
        value for name, value in page.attributes if "default-src" in str(value)
    ]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind in ("style", "script"):
        digest = hashlib.sha256(page.inside_of(kind).encode()).digest()
        code = base64.b64encode(digest).decode()
        assert f"{kind}-src 'sha256-{code}'" in policy
    # A style attribute would be refused by the policy.
    assert not [name for name, _ in page.attributes if name == "style"]


def test_every_flag_column_and_threshold_is_defined(page):
    # Links to papers part a meaning into several texts.
    words = page.words.replace(" ", "")
    for meanings in (
        _definitions.STATISTICS,
        _definitions.LAYERS,
        _definitions.OTHERS,
        _definitions.of_flags(),
        _definitions.of_thresholds(),
    ):
        assert meanings
        for meaning in meanings.values():
            assert len(meaning) > 20
            assert "".join(meaning.split()) in words
    assert set(_definitions.of_flags()) == set(flag_names())
    assert set(_definitions.of_thresholds()) == set(isometry.verdicts._registry.SHARED)


def test_a_definition_can_be_reached_without_a_mouse(page):
    reachable = page.attributes.count(("class", "term"))
    assert reachable > 20
    assert page.attributes.count(("tabindex", "0")) >= reachable


def test_papers_are_links():
    text = 'Baik "et al." (arXiv:math/0403022); arXiv:1611.01232.'
    linked = _html._page.with_papers(text)
    assert 'href="https://arxiv.org/abs/math/0403022"' in linked
    assert 'href="https://arxiv.org/abs/1611.01232"' in linked
    assert "&quot;et al.&quot; (" in linked
    assert Page(linked).words.replace(" )", ")").replace(" ;", ";").startswith("Baik")


def test_nothing_below_the_floor_is_drawn_as_a_value():
    """Two of six values are zero and one is noise; three are in the histogram."""
    sp = report().spectra["end_to_end"]
    edges = _pictures.common_edges([report()])
    heights = _histogram.heights(sp, edges)
    assert float(np.sum(heights * np.diff(edges))) == pytest.approx(3 / 6)
    assert edges[0] > np.log10(1e-9)
    # Nor would it be on an axis that reaches so far down.
    wide = np.linspace(-12, 1, 40)
    assert float(np.sum(_histogram.heights(sp, wide) * np.diff(wide))) == pytest.approx(
        3 / 6
    )
    shares = _histogram.masses(sp, edges)
    assert shares["zeros"] == pytest.approx(2 / 6)
    assert shares["unresolved"] == pytest.approx(1 / 6)
    assert shares["outside"] == shares["not finite"] == 0
    assert S[3] < np.exp(-14) * S[0]
    picture, _ = _pictures.spectra(report(), edges)
    assert "zeros 33 %" in picture
    assert "unresolved 17 %" in picture


def test_few_small_values_do_not_stretch_the_axis_and_are_named():
    sp = report().spectra["end_to_end"]
    logs = np.zeros((5, 2, 600))
    logs[0, 0, -1] = np.log(1e-5)
    low = dataclasses.replace(
        sp, log_values=logs, weights=np.full_like(logs, 1 / 600), size=600
    )
    one = report(spectra={"end_to_end": low})
    edges = _pictures.common_edges([one])
    assert edges[0] > -1
    picture, _ = _pictures.spectra(one, edges)
    assert "outside 0.017 %" in picture


def test_a_law_is_drawn_with_its_atoms_and_zeros():
    """phi'² of ReLU is 0 or 1, so that s is 0 or √2, with mass 1/2 each."""
    law = theory.jacobian_law("relu", depth=1, q=1.0)
    one = report(law=law)
    edges = _pictures.common_edges([one])
    picture, words = _pictures.spectra(one, edges)
    assert words == []
    assert "law: zeros 50 %" in picture
    ((place, height),) = _pictures._predicted(law, edges).stems
    assert place == pytest.approx(np.log10(2) / 2)
    assert height == pytest.approx(0.5 / (edges[1] - edges[0]))


def test_where_a_law_is_higher_than_the_panel_there_is_a_triangle():
    """One for each range of points that are above the top."""
    panel = svg.Panel(x=(0.0, 6.0), y=(0.0, 1.0))
    density = np.array([2.0, 3.0, 0.5, 0.5, 0.5, 0.5, 4.0])
    for scale, number in ((1.0, 2), (0.25, 0)):
        law = _pictures.Predicted(density=scale * density)
        drawn = "".join(_pictures._lines_of_law(panel, law))
        assert drawn.count("h-6z") == number


def test_a_law_that_cannot_be_computed_is_left_out_with_the_reason(monkeypatch):
    def fails(law, edges):
        raise theory.freeprob.NotConverged("of edge 3")

    monkeypatch.setattr(_pictures, "_predicted", fails)
    one = report()
    picture, words = _pictures.spectra(one, _pictures.common_edges([one]))
    assert picture is not None
    assert words == ["the law is not drawn: of edge 3"]


def test_without_a_law_the_reason_stands_below_the_picture():
    one = report(law=None, no_law="no law: f is a plain function")
    _, words = _pictures.spectra(one, _pictures.common_edges([one]))
    assert words == ["no law: f is a plain function"]


def test_nodes_of_quadratures_are_not_drawn_and_the_reasons_are_given():
    one = report(spectra={"end_to_end": quadrature()}, law=None, no_law="none")
    picture, words = _pictures.spectra(one, _pictures.common_edges([one]))
    assert picture is None
    assert "not singular values" in words[0]


def not_finite():
    """The spectra of a report, one of ten Jacobians not finite."""
    sp = report().spectra["end_to_end"]
    logs = np.array(sp.log_values)
    logs[0, 0] = np.nan
    return {"end_to_end": dataclasses.replace(sp, log_values=logs)}


def test_numbers_that_are_not_known_say_why():
    """A median over matrices of which one is NaN is not known."""
    one = report(spectra=not_finite())
    for cell in _contents._numbers(one).values():
        assert cell.text == "unknown"
        assert cell.order == float("inf")
        assert cell.why == "1 of 10 Jacobians are not finite."
    page = page_of(one, report())
    assert "unknown 1 of 10 Jacobians are not finite." in page.words
    assert not re.search(r"\bnan\b", page.words)


def test_of_a_quadrature_only_some_numbers_are_known():
    """Nodes 2 and 1/2 of equal weight: E s² = 2.125."""
    cells = _contents._numbers(report(spectra={"end_to_end": quadrature()}))
    assert cells["s_max"].text == "2"
    # Three digits are written.
    assert float(cells["mean_s2"].text) == pytest.approx(2.125, abs=0.0051)
    for name in ("s_min", "s_median", "zero_fraction"):
        assert cells[name].text == "unknown"
        assert "not singular values" in cells[name].why


def test_cells_below_the_floor_say_so_beside_an_exact_zero():
    """s_min is zero; the median of 2, 1e-9 and 0 has the floor 2e^-14 = 1.66e-6."""
    sp = spectrum(np.broadcast_to([2.0, 1e-9, 0.0], (5, 2, 3)))
    cells = _contents._numbers(report(spectra={"end_to_end": sp}))
    assert (cells["s_min"].text, cells["s_min"].why) == ("0", "")
    assert cells["s_median"].text == "< 1.7e-06"
    assert (
        cells["s_median"].why == "below the floor of the method in 10 of 10 Jacobians."
    )
    # A zero is sorted before what may be as large as the floor.
    assert -np.inf < cells["s_min"].order < cells["s_median"].order
    assert "< 1.7e-06" in page_of(report(spectra={"end_to_end": sp})).words


def test_what_leaves_the_range_of_float64_is_drawn_and_written():
    """Norms of gradients of e^-900 = 1.36e-391 and 1: 391 decades, all on the axis."""
    rows = (row("stem"), row("head"))
    small = dataclasses.replace(rows[0], gradient=0.0, log_gradient=-900.0)
    one = report(rows=(small, dataclasses.replace(rows[1], gradient=1.0)))
    (stem, head) = _contents.network("net", one).layers
    assert (stem["gradient"].text, head["gradient"].text) == ("1.36e-391", "1")
    assert stem["gradient"].order < head["gradient"].order
    picture = _pictures.depth({"net": one}, "gradient", "norm")
    assert "net, stem: 1.36e-391" in picture
    assert ">1e-330<" in picture
    assert "1.36e-391" in one.layers()


def test_undefined_networks_count_in_headline_and_title():
    undefined = {"other": "of no shape"}
    alone = _html.page(isometry.Reports({}, undefined))
    assert "Audit of a network that is not defined" in Page(alone).words
    assert "Of 1 network: 1 not defined." in Page(alone).words
    assert "<title>Audit: other</title>" in alone
    mixed = Page(_html.page(isometry.Reports({"net": report()}, undefined))).words
    assert "Audit of 2 networks" in mixed
    assert (
        "Of 2 networks: 1 with faults that training hardly repairs; 1 not defined."
        in mixed
    )
    # What the verdict means is then on its card.
    assert "Training hardly repairs what is wrong here." in mixed


def test_bytes_that_are_no_text_are_written_as_they_are_escaped(tmp_path):
    """Python hands the byte ff of a command line on as the surrogate dcff."""
    one = report(provenance={"command": ["isometry", "\udcff.npy"]}, network="\udcff")
    one.to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"\udcff.npy" in text


def test_thresholds_are_not_undefined_in_silence_without_docstrings(monkeypatch):
    """As Python with -OO has them."""
    meanings = _definitions.of_thresholds()
    assert _definitions._NO_DOCSTRING not in meanings.values()
    monkeypatch.setattr(isometry.Thresholds, "__doc__", None)
    bare = _definitions.of_thresholds()
    assert set(bare) == set(meanings)
    assert set(bare.values()) == {_definitions._NO_DOCSTRING}


def test_mass_of_a_law_beyond_the_axis_is_a_bar():
    """Of Marchenko and Pastur at ratio 1: s has the density √(4 − s²)/π on [0, 2]."""
    law = theory.fuss_catalan(1)
    edges = np.linspace(-0.5, 0.1, 31)
    low, high = 10.0 ** edges[[0, -1]]
    inside = integrate.quad(lambda s: np.sqrt(4 - s**2) / np.pi, low, high)[0]
    (bar,) = _pictures._predicted(law, edges).masses
    assert bar.share == pytest.approx(1 - inside, abs=1e-9)
    assert bar.name == f"law: outside {100 * (1 - inside):.2g} %"
    assert not bar.is_solid


def test_atoms_of_a_law_beyond_the_axis_are_in_that_bar():
    """Half of the mass of ReLU's law is at s = √2, half at zero."""
    law = theory.jacobian_law("relu", depth=1, q=1.0)
    zero, outside = _pictures._predicted(law, np.linspace(-0.5, 0.1, 31)).masses
    assert (zero.name, outside.name) == ("law: zeros 50 %", "law: outside 50 %")


def test_what_was_not_measured_is_said():
    """Parameters that are not finite, no probe, no certificate, no provenance."""
    bare = report(
        flag("exploding", "raised"),
        spectra={},
        probe=None,
        law=None,
        no_law="not measured: layers/0 holds NaN",
        rows=(),
        setting={},
        provenance={},
        timings={},
        certificates=(),
    )
    words = page_of(bare).words
    for said in (
        "no Jacobian was measured",
        "not measured: layers/0 holds NaN",
        "Nothing is known along depth",
        "no probe: parameters or signals are not finite",
        "No number of any layer is known",
        "Not certified: the report holds no certificate",
        "The report does not say where its numbers come from",
    ):
        assert said in words, said


def test_training_that_was_switched_off_is_no_failure():
    one = report(probe=None, setting={"train_steps": 0})
    assert "no probe: training was switched off" in page_of(one).words


def test_certificates_have_grades_and_equal_seeds_stand_together():
    clear = certificate()
    locked = certificate(
        finding("stem"),
        finding("head"),
        finding("bias", grade="in exact arithmetic", is_harmless=True),
    )
    found = _contents._certified((locked, clear, locked))
    assert [one.seeds.partition(" (")[0] for one in found] == ["seeds 1, 3", "seed 2"]
    assert found[0].words == "2 of 2 weights are locked"
    assert found[1].words == "clear: nothing locks any of 2 weights"
    # Findings that differ in the layer alone are one row.
    assert [one.layers for one in found[0].found] == [("stem", "head")]
    words = page_of(report(certificates=(locked, clear, locked))).words
    assert "bit for bit" in words
    assert "(harmless)" in words


def test_layers_have_numbers_to_sort_by():
    (stem, head) = _contents.network("net", report()).layers
    assert (stem["layer"].order, head["layer"].order) == (0, 1)
    assert stem["q"].order == pytest.approx(np.log(0.5))
    assert (head["q"].text, head["q"].order) == ("–", float("inf"))
    assert "Not measured" in head["q"].why
    assert stem["never"].text == "25 %"
    # Of the 4 that a matrix of 6 × 4 could have.
    assert stem["rank"].text == "1/4"
    assert stem["grade"].text == "bit for bit"


def test_the_probe_has_its_losses_and_ranks(page):
    words = page.words
    assert "2.25" in words
    assert "3 of 4 (stem)" in words
    # The head got no gradient in any seed.
    assert "1 of 2 weights" in words


def test_provenance_is_at_the_bottom(page):
    words = page.words
    for said in ("jax 0.10.0", "log_gain 3", "2026-01-01T00:00:00+00:00"):
        assert words.index(said) > words.index("Definitions", words.index("Layers"))


def test_the_same_report_gives_the_same_page():
    """In another process too, where sets have another order."""
    program = (
        "from isometry.verdicts import _html; from tests.verdicts import pages;"
        "import sys; sys.stdout.buffer.write(_html.page(pages.malicious()).encode())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    first, second = (_html.page(malicious()) for _ in range(2))
    assert first == second == other.stdout.decode()
    assert not re.search(r"\bnan\b", _html.page(isometry.Reports({"a": report()})))


def test_to_html_writes_the_page(tmp_path):
    path = tmp_path / "with a space.html"
    assert report().to_html(path) is None
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    reports = isometry.Reports({"net": report()}, {"none": "no shape"})
    reports.to_html(os.fspath(tmp_path / "page.txt"))
    assert "no shape" in (tmp_path / "page.txt").read_text(encoding="utf-8")


def test_bad_paths_are_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    def never(reports):
        raise AssertionError("drawn")

    monkeypatch.setattr(_html._page, "page", never)
    with pytest.raises(isometry.InputError, match=r"Report.to_html\(\): there is no"):
        report().to_html(tmp_path / "missing" / "report.html")
    with pytest.raises(isometry.InputError, match="is no path"):
        report().to_html(3)
    with pytest.raises(isometry.InputError, match="is a folder"):
        report().to_html(tmp_path)
    with pytest.raises(isometry.InputError, match="there is no report"):
        isometry.Reports({}).to_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_without_jinja2_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(isometry.MissingExtra, match=r"pip install '\.\[report\]'"):
        report().to_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(isometry.InputError, match="No space left"):
        report().to_html(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_audit_gives_its_certificates_to_the_report():
    """The widest row of a network of ones is locked, and the page says so."""
    import jax
    import jax.numpy as jnp

    def f(params, x):
        return jnp.tanh(x @ params["<b>first"]) @ params["second"]

    params = {"<b>first": np.ones((1, 3, 4)), "second": np.ones((1, 4, 2))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    one = isometry.audit(f, params=params, xs=xs, train_steps=0, inputs=2)
    assert not one.certificates[0]["clear"]
    page = page_of(one)
    assert "b" not in page.tags
    assert "<b>first" in page.words
    assert '"certificates"' in one.to_json()
