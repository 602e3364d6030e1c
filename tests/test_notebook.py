"""What a notebook shows: spectra, laws, anatomies, reports and progress."""

import dataclasses
import decimal
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, plots, theory
from isometry.measure import _progress
from tests.verdicts.measuring import spectrum
from tests.verdicts.pages import EVIL, Page, malicious, quadrature, report


def shown(value):
    """The HTML of a value as a notebook shows it, read as a browser reads it."""
    page = Page(value._repr_html_())
    # No script, and no style that would reach beyond the cell.
    assert not {"script", "style", "link", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    return page


def test_a_spectrum_shows_its_numbers_and_a_histogram():
    """Of 2, 1 and 1/2 in all matrices: E s² = 1.75, and no value is zero."""
    page = shown(spectrum(np.broadcast_to([2.0, 1.0, 0.5], (5, 2, 3))))
    for said in ("E s² 1.75", "largest s 2", "median of s 1", "s_max/s_min 4"):
        assert said in page.words
    assert "zeros, or below the floor 0" in page.words
    assert "medians over 10 matrices" in page.words
    assert page.tags.count("svg") == 1


def test_what_has_no_place_in_the_histogram_is_beside_it():
    sp = spectrum(np.broadcast_to([2.0, 1e-9, 0.0], (5, 2, 3)))
    page = shown(sp)
    # Zeros are a solid bar; what may be zero or not is a hollow one.
    bars = re.findall(r'<rect[^>]*fill="([^"]+)"', sp._repr_html_())
    assert [fill == "none" for fill in bars] == [False, True]
    # The median of 2, 1e-9 and 0 is below the floor 2e^-14 = 1.66e-6; s_min is zero.
    assert "smallest s 0 median of s < 1.7e-06" in page.words
    assert "below the floor of the method in 10 of 10 Jacobians" in page.words
    assert "zeros 33 %" in page.words
    assert "unresolved 33 %" in page.words


def test_a_spectrum_of_zeros_has_no_histogram():
    page = shown(spectrum(np.zeros((5, 2, 3))))
    assert "no singular value is above the floor" in page.words
    assert "svg" not in page.tags


def test_a_number_that_the_method_cannot_know_says_why():
    page = shown(quadrature())
    assert "smallest s unknown Lanczos(steps=2, probes=1" in page.words
    assert "no histogram: Lanczos" in page.words


def test_a_jacobian_that_is_not_finite_says_so():
    sp = spectrum(np.broadcast_to([2.0, 1.0, 0.5], (5, 2, 3)))
    logs = np.array(sp.log_values)
    logs[0, 0] = np.nan
    words = shown(dataclasses.replace(sp, log_values=logs)).words
    assert "1 of 10 Jacobians are not finite" in words


@pytest.mark.parametrize("log_scale", [-800.0, 800.0])
def test_a_spectrum_beyond_the_range_of_floats_shows_its_numbers(log_scale):
    """s = 1 and 2 times e^±800; log10 e is 0.4343."""
    sp = spectrum(np.broadcast_to([2.0, 1.0], (5, 2, 2)))
    far = dataclasses.replace(sp, log_values=np.asarray(sp.log_values) + log_scale)
    with decimal.localcontext() as context:
        context.prec = 30
        largest = 2 * decimal.Decimal(log_scale).exp()
    mantissa, _, exponent = f"{largest:.3e}".partition("e")
    page = shown(far)
    assert f"largest s {mantissa.rstrip('0')}e{exponent}" in page.words
    # Ticks are numbers of that range too.
    assert re.search(r" [125]e-?34\d ", page.words)


def test_a_traced_spectrum_shows_no_html():
    sp = spectrum(np.broadcast_to([2.0, 1.0, 0.5], (5, 2, 3)))
    seen = []
    jax.jit(lambda one: seen.append(one._repr_html_()))(sp)
    assert seen == [None]


def test_a_law_shows_edges_atoms_and_moments():
    """Marchenko-Pastur at ratio 1/4: support (1 ∓ 1/2)², mean 1, variance 1/4."""
    page = shown(theory.marchenko_pastur(0.25))
    for said in ("[0.25, 2.25]", "atoms none", "largest s 1.5", "E λ 1", "Var λ 0.25"):
        assert said in page.words
    assert page.tags.count("svg") == 1


def test_a_law_of_atoms_alone_shows_them():
    """phi'² of ReLU is 0 or 1, each with probability 1/2, and sigma_w² = 2."""
    page = shown(theory.jacobian_law("relu", depth=1, q=1.0))
    assert "0.5 at λ = 0, 0.5 at λ = 2" in page.words
    assert "zeros 50 %" in page.words


def test_an_anatomy_shows_all_its_layers():
    page = shown(networks.transformer(8, 2, 2, vocabulary=9, length=5).anatomy)
    assert "8 weight layers, depth 10, 4 branches, 2 attentions" in page.words
    assert "blocks/attention/query[0..1]" in page.words
    assert page.tags.count("tr") == 9


def test_of_a_deep_anatomy_the_middle_is_counted():
    params = {f"{EVIL[0]}{i:03}": jnp.ones((2, 2)) for i in range(70)}

    def f(params, x):
        for w in params.values():
            x = jnp.tanh(x @ w)
        return x

    page = shown(isometry.anatomy(f, params, jnp.ones(2)))
    assert "10 more layers" in page.words
    # The names, the line of the gap, and the headings.
    assert page.tags.count("tr") == 62
    assert f"{EVIL[0]}000" in page.words


def test_a_report_shows_its_verdict_and_what_is_wrong():
    page = shown(report())
    assert page.words.startswith("raised : mlp([6, 4, 3])")
    assert "raised zero_gradient reason of zero_gradient stem mend" in page.words
    assert "undecided vanishing reason of vanishing" in page.words
    assert "clear: exploding" in page.words


def test_reports_are_shown_side_by_side():
    page = shown(isometry.Reports({"net": report()}, {"none": "of no shape"}))
    assert "net raised zero_gradient" in page.words
    assert "none not defined: of no shape" in page.words


def test_names_are_text_in_a_notebook():
    for value in (malicious(), *malicious().values()):
        page = shown(value)
        assert any(evil in page.words for evil in EVIL)


def test_progress_in_a_notebook_is_the_first_line_the_last_and_some_between(
    monkeypatch, capsys
):
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    report_progress = _progress._lines("Jacobians")
    for done in range(1, 100):
        now[0] += 0.25
        report_progress(done, 99)
    lines = capsys.readouterr().err.splitlines()
    # 99 calls in 25 seconds: at once, after 10 and 20 seconds, and at the end.
    assert lines == [f"Jacobians: {done}/99" for done in (1, 41, 81, 99)]


def test_a_figure_is_shown_without_pyplot():
    """As a PNG file of the figure's size, also in a copy of the figure."""
    pytest.importorskip("matplotlib")
    drawn = plots.laws({"two layers": theory.fuss_catalan(2)})
    for figure in (drawn, pickle.loads(pickle.dumps(drawn))):
        png = figure._repr_png_()
        assert png.startswith(b"\x89PNG\r\n")
        width, height = np.frombuffer(png[16:24], ">u4") / figure.dpi
        assert (width, height) == (4.4, 3.0)


CELLS = (
    """
import warnings
warnings.filterwarnings("ignore", message="IProgress")
import jax, numpy as np, isometry
from isometry import networks
net = networks.mlp([8] * 4, "tanh", "zeros")
keys = jax.random.split(jax.random.key(0), 5)
xs = jax.random.normal(jax.random.key(1), (16, 8))
""",
    "isometry.ensemble(net, keys, xs, progress=True)",
    "isometry.audit(net, keys, xs, train_steps=0, inputs=2, progress=print)",
    "net.anatomy",
    """
def run(point, key):
    return {"twice": np.float32(2 * point["a"])}
store = isometry.sweep(run, {"a": [1, 2]}, "store", key=keys[0], executor=None)
""",
    """
import sys
from isometry import plots, theory
assert "matplotlib.pyplot" not in sys.modules
plots.laws({"two layers": theory.fuss_catalan(2)})
""",
    """
sp = isometry.Spectrum.of_jacobians(np.eye(4))
plots.overlay(sp, theory.fuss_catalan(2)).figure
""",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_is_executed(tmp_path):
    """A kernel runs the cells; their output is what a reader sees."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(text.strip()) for text in CELLS]
    settings = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=settings
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells]

    def html(index):
        results = [one for one in outputs[index] if "data" in one]
        assert len(results) == 1
        # Both are there, for a notebook on GitHub shows the text.
        assert results[0]["data"]["text/plain"]
        return results[0]["data"]["text/html"]

    def text(index):
        return "".join(one.get("text", "") for one in outputs[index])

    assert "<svg" in html(1) or "no histogram" in html(1)
    assert "Jacobians: 80/80" in text(1)
    assert len(text(1).splitlines()) < 10
    assert "raised" in html(2)
    assert "network: Jacobians" in text(2)
    assert "3 weight layers" in html(3)
    assert re.search(r"sweep: 2/2 cells", text(4))
    assert len(text(4).splitlines()) < 10
    assert [sorted(one["data"]) for one in outputs[5] + outputs[6]] == [
        ["image/png", "text/plain"],
        ["image/png", "text/plain"],
    ]
