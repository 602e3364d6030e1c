"""audit: what it returns, what it takes for the task, and everything it refuses before it computes."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.degeneracy import FLAGS, Report, Reports, _audit, _report

SIZES, XS = [6, 8, 8, 3], jax.random.normal(jax.random.key(1), (32, 6))
KEYS = jax.random.split(jax.random.key(0), 5)
LABELS = jnp.arange(32, dtype=jnp.int32) % 3


def net_of(scheme="orthogonal"):
    return networks.mlp(SIZES, "tanh", scheme)


def absolute(output, target):
    return jnp.abs(output - target).sum()


@jax.custom_vjp
def reverse_only(z):
    return z


reverse_only.defvjp(lambda z: (z, None), lambda _, g: (g,))


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def reports():
    return isometry.audit(
        {"zer_o": net_of("zer_o"), "plain": net_of()}, KEYS, XS, targets=LABELS, train_steps=2, inputs=2
    )


def test_a_mapping_gives_a_report_of_reports(reports):
    assert isinstance(reports, Reports)
    assert list(reports) == ["zer_o", "plain"]
    for flag in reports["zer_o"].flags.values():
        assert flag.state in ("raised", "clear", "undecided", "not_run")
        assert flag.raised == (flag.state == "raised")
        assert flag.evidence
        assert flag.remedy
        assert flag.source
    assert reports.raised("zero_gradient") == []
    with pytest.raises(ValueError, match="Did you mean 'vanishing'"):
        reports.raised("vanishin")


def test_a_network_of_zeros_is_reported_without_nan():
    """−inf and undefined are said in words and strings; NaN would make strict JSON fail."""
    report = isometry.audit(net_of("zeros"), KEYS, XS, train_steps=0, inputs=2)
    assert tuple(report.flags) == FLAGS
    assert report.flags["vanishing"].raised
    assert report.flags["vanishing"].value == -np.inf
    assert report.flags["anisometric"].state == "undecided"
    assert report.flags["zero_gradient"].raised
    assert report.flags["rank_constrained_training"].raised
    assert report.widths is None  # nothing is trained, at other widths neither
    assert "NaN" not in report.to_json()
    assert "nan" not in report.table()


def test_json_is_strict_and_complete(reports):
    read = strict(reports.to_json())["reports"]["plain"]
    report = reports["plain"]
    assert read["verdict"] == report.verdict
    assert list(read["flags"]) == list(report.flags)
    assert read["setting"]["examples"] == 32
    assert not read["setting"]["synthetic_targets"]
    np.testing.assert_allclose(
        read["spectra"]["end_to_end"]["log_s"], np.asarray(report.spectra["end_to_end"].log_values)
    )


def test_the_law_of_the_hidden_layers_or_why_there_is_none(reports):
    laws = {name: report.as_dict()["law"] for name, report in reports.items()}
    assert laws["plain"]["name"] == "tanh, depth 1, orthogonal"
    assert reports["plain"].law.pairs == 1
    assert laws["zer_o"]["reason"].startswith("no law is known of zer_o")


def test_the_table_holds_names_and_verdicts(reports):
    pytest.importorskip("rich")
    text = reports.table(width=160)
    for name, report in reports.items():
        assert name in text
        assert report.verdict in text
    assert text.count("deviation: √E(s − 1)²") == 1


@pytest.mark.parametrize("width", [40, 80])
def test_in_a_narrow_terminal_the_table_loses_nothing(width, reports):
    pytest.importorskip("rich")
    lines = reports.table(width=width).splitlines()
    assert max(map(len, lines)) <= width
    said = "".join("".join(lines).split()).replace("│", "").replace("┃", "")
    for report in reports.values():
        assert f"{report.verdict}:" in said
    assert f"σ_max{reports['plain'].statistics()['s_max']:.3g}," in said
    assert "…" not in said


def test_brackets_in_names_are_no_markup_and_all_is_a_hundred_percent(reports):
    pytest.importorskip("rich")
    text = Reports({"wide[bold]": reports["plain"]}, {"deep[red]": "of no shape [n, n]"}).table(width=160)
    for words in ("wide[bold]", "deep[red]", "of no shape [n, n]"):
        assert words in text
    everything = reports["plain"].statistics() | {"zero_fraction": 1.0}
    assert _report._numbers(everything)[-1] == "100 %"


def test_what_a_notebook_shows_fits_on_a_screen(reports):
    """The repr says verdict and reasons; the arrays behind a flag are not part of it."""
    report = reports["plain"]
    assert repr(report) == f"Report({report.network}: {report.verdict}; {report.reason})"
    assert f"plain: {report.verdict}" in repr(reports)
    assert all(len(repr(flag)) < 1000 for flag in report.flags.values())


def test_an_orthogonal_network_measures_as_one(reports):
    """Widths 6, 8, 8, 3 with tanh near its linear regime do not, but s_max ≤ 1 holds: |tanh'| ≤ 1, all weights 1."""
    s_max = reports["plain"].statistics()["s_max"]
    assert 0 < s_max <= 1 + 1e-5  # float32, 3 products of 8 terms


def test_the_same_keys_give_the_same_report_and_one_network_its_own(reports):
    again = isometry.audit(net_of(), KEYS, XS, targets=LABELS, train_steps=2, inputs=2)
    assert isinstance(again, Report)
    first, second = (strict(r.to_json()) for r in (reports["plain"], again))
    del first["provenance"]["time"], second["provenance"]["time"]
    assert first == second


def task_of(**how):
    arguments = {"targets": None, "loss": None, "optimizer": None, "steps": 2} | how
    return _audit._prepare("network", net_of(), XS, *arguments.values(), jax.random.key(0))


def test_without_targets_synthetic_labels():
    task, synthetic = task_of()
    assert synthetic
    assert task.targets.shape == (32,)
    assert set(np.unique(task.targets)) <= {0, 1, 2}
    assert len(np.unique(task.targets)) > 1


def test_float_targets_mean_the_mean_square():
    task, synthetic = task_of(targets=np.zeros((32, 3), np.float32))
    assert not synthetic
    assert task.loss(jnp.array([1.0, 2.0, 3.0]), task.targets[0]) == pytest.approx(14 / 3, rel=1e-6)


def test_labels_mean_cross_entropy():
    task, _ = task_of(targets=LABELS)
    assert task.loss(jnp.zeros(3), LABELS[0]) == pytest.approx(np.log(3), rel=1e-6)


def test_a_loss_and_an_optimizer_of_ones_own():
    """At learning rate 0 nothing moves, whatever the gradient: both are used."""
    report = isometry.audit(
        net_of(),
        KEYS,
        XS,
        targets=jnp.zeros((32, 3)),
        loss=absolute,
        optimizer=optax.sgd(0.0),
        train_steps=2,
        inputs=2,
    )
    # The batches hold all 32 examples in another order each.
    np.testing.assert_allclose(report.probe.loss, report.probe.loss[:, :1] * [[1, 1]], rtol=1e-5)
    assert report.probe.gradient_rank.max() > 0
    weights = [np.asarray(w, float)[0] for run in jax.vmap(net_of().init)(KEYS)["layers"] for w in [run["w"][:, 0]]]
    h = np.asarray(XS, float) @ weights[0]
    for w in weights[1:]:
        h = np.tanh(h) @ w
    np.testing.assert_allclose(report.probe.loss[0], np.abs(h).sum(1).mean(), rtol=1e-5)  # float32 sums of 96 terms


def test_a_loss_of_ones_own_takes_whatever_targets_it_likes():
    """Counts above the number of outputs are no labels."""
    task, _ = task_of(targets=LABELS + 40, loss=lambda y, t: jnp.exp(y.sum()) - t * y.sum())
    assert int(task.targets.max()) == 42


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"log_gain": math.nan}, r"log_gain=nan is not a finite number in \[0, inf\)"),
        ({"anisometry": -1.0}, r"anisometry=-1.0"),
        ({"confidence": 1.5}, r"confidence=1.5 is not a finite number in \[0, 1\]"),
        ({"dead_level": "high"}, "dead_level='high' is not a number"),
        ({"controls": 0}, "controls=0 must be a whole number, at least 1"),
        ({"least_seeds": 2.5}, "least_seeds=2.5 is not a whole number"),
    ],
)
def test_thresholds_are_numbers_that_can_be_passed(wrong, words):
    with pytest.raises(isometry.InputError, match=words):
        isometry.Thresholds(**wrong)


@pytest.fixture(scope="module")
def shallow():
    """A network of one layer, whose loss is NaN from the first step on."""
    return isometry.audit(
        networks.mlp([6, 3], "tanh"), KEYS, XS, targets=LABELS, loss=lambda y, t: jnp.log(-(y**2).sum()),
        train_steps=3, inputs=2,
    )  # fmt: skip


def test_a_network_without_hidden_layers_has_a_report(shallow):
    assert shallow.probe.signals.duplicates.shape == (3, 4, 0)
    assert shallow.probe.signals.rank[:, 0].tolist() == [[3]] * 3
    assert shallow.flags["locked_symmetry"].state == "clear"
    strict(shallow.to_json())


def test_a_loss_that_is_nan_at_step_1_is_not_said_to_overflow(shallow):
    flag = shallow.flags["rank_constrained_training"]
    assert flag.state == "undecided"
    assert "the loss is NaN at step 1" in flag.reason
    assert "learning rate" not in flag.reason


@pytest.fixture
def no_compute(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed before everything was checked")

    monkeypatch.setattr(_audit, "_audit_one", refuse)


REFUSED = {
    "not a network": ({"net": lambda p, x: x}, "not a Network"),
    "one of a mapping": (
        {"net": {"good": net_of, "bad": 3}},
        "bad is 3, not a Network whose units are known; .* Of a chain and of a plain f",
    ),
    "empty mapping": ({"net": {}}, "mapping of networks is empty"),
    "no keys": ({"keys": 3}, "not a one-dimensional array of random keys"),
    "one key": ({"keys": jax.random.key(0)}, "jax.random.split"),
    "several keys for one": ({"key": KEYS}, "not a single random key"),
    "features": ({"xs": XS[:, :5]}, r"\(32, 5\).*takes floating rows of shape \(6,\)"),
    "one example": ({"xs": XS[0]}, "takes floating rows"),
    "no examples": ({"xs": XS[:0]}, "takes floating rows"),
    "whole numbers": ({"xs": XS.astype(jnp.int32)}, "int32"),
    "nan": ({"xs": XS.at[3, 2].set(jnp.nan)}, "xs holds 1 values that are NaN"),
    "labels too large": ({"targets": LABELS + 1}, "labels 1 to 3.*3 outputs; labels run from 0 to 2"),
    "labels negative": ({"targets": LABELS - 1}, "labels -1 to 1"),
    "length": ({"targets": LABELS[:31]}, r"audit\(\): targets have shape \(31,\) for 32 examples in xs"),
    "nan targets": ({"targets": jnp.full((32, 3), jnp.nan)}, "targets holds 96 values"),
    "targets without the outputs' axis": (
        {"targets": jnp.zeros(32)},
        r"float32 of shape \(32,\); the default loss takes floating ones of shape \(32, 3\)",
    ),
    "targets of one column": ({"targets": jnp.zeros((32, 1))}, r"shape \(32, 3\) or integer labels of shape \(32,\)"),
    "targets that broadcast": ({"targets": jnp.zeros((32, 3, 3))}, "the default loss takes"),
    "labels in columns": ({"targets": jnp.zeros((32, 3), jnp.int32)}, "the default loss takes"),
    "words for targets": ({"targets": ["word"] * 32}, "is not an array of numbers: .* Write rows of equal length"),
    "ragged targets": ({"targets": [[1.0], [1.0, 2.0]] * 16}, "targets=.*is not an array of numbers"),
    "complex targets": ({"targets": jnp.zeros((32, 3), jnp.complex64)}, "targets is complex64"),
    "words for xs": ({"xs": "abc"}, "xs='abc' is not an array of numbers"),
    "ragged xs": ({"xs": [[1.0], [1.0, 2.0]]}, "xs=.*is not an array of numbers"),
    "complex loss": ({"loss": lambda y, t: (y * 1j).sum()}, "must be a scalar, real and floating"),
    "loss of a key error": ({"loss": lambda y, t: {}["weight"]}, "fails on one example.*KeyError: 'weight'"),
    "loss of chance": (
        {"loss": lambda y, t: (y * np.random.default_rng().normal(size=3)).sum()},  # as if of no seed
        "loss is not deterministic.*Close over one draw",
    ),
    "loss without a gradient": (
        {"loss": lambda y, t: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((), jnp.float32), y.sum())},
        "loss has no gradient",
    ),
    "optimizer of chance": (
        {
            "optimizer": optax.stateless(
                lambda g, p: jax.tree.map(lambda a: a * np.float32(np.random.default_rng().normal()), g)
            )
        },
        "optimizer is not deterministic.*key in its state",
    ),
    "activation without a forward derivative": (
        {"net": networks.mlp(SIZES, reverse_only, "orthogonal", sigma_w=1.0)},
        r"the slope of .* cannot be taken, TypeError.*jax.custom_jvp",
    ),
    "progress": ({"progress": "a"}, "progress='a' is no function of a stage's name"),
    "thresholds": ({"thresholds": {"log_gain": 2}}, r"thresholds=\{'log_gain': 2\} is not a Thresholds"),
    "loss of a vector": ({"loss": lambda y, t: y}, "it must be a scalar"),
    "loss that fails": ({"loss": lambda y: y}, "fails on one example"),
    "shapes of a loss": (
        {"targets": jnp.zeros((32, 4)), "loss": absolute},
        r"fails on one example.*target of shape \(4,\)",
    ),
    "optimizer": ({"optimizer": 0.1}, r"0.1 is not an optax optimizer; write optax.sgd\(0.1\)"),
    "another state": (
        {"optimizer": optax.GradientTransformation(optax.adam(0.1).init, optax.sgd(0.1, momentum=0.9).update)},
        "optimizer.update fails on the state of optimizer.init",
    ),
    "a state that grows": (
        {"optimizer": optax.GradientTransformation(lambda p: (), lambda g, s, p: (g, (*s, 1)))},
        "returns state of another structure",
    ),
    "half of the updates": (
        {"optimizer": optax.GradientTransformation(lambda p: (), lambda g, s, p: (g["layers"], s))},
        "returns updates of another structure",
    ),
    "steps": ({"train_steps": -1}, "train_steps=-1"),
    "half steps": ({"train_steps": 1.5}, "train_steps=1.5"),
    "inputs": ({"inputs": 0}, "inputs=0"),
}


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_any_compute(changed, words):
    how = {"net": net_of(), "keys": KEYS, "xs": XS, **changed}
    if isinstance(how["net"], dict):
        how["net"] = {k: v() if callable(v) else v for k, v in how["net"].items()}
    with pytest.raises(isometry.InputError, match=words) as error:
        isometry.audit(how.pop("net"), how.pop("keys"), how.pop("xs"), **how)
    assert str(error.value).startswith("audit()")


@pytest.mark.usefixtures("no_compute")
def test_a_tracer_is_a_type_error():
    with pytest.raises(TypeError, match="xs is traced; audit runs on the host"):
        jax.jit(lambda xs: isometry.audit(net_of(), KEYS, xs))(XS)
