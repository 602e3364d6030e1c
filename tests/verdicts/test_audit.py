"""audit: what it returns, for which networks, and what it refuses before computing."""

import json
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.verdicts import _audit, _probe, _registry
from tests.verdicts.measuring import rounding

SIZES = [6, 8, 8, 3]
XS = jax.random.normal(jax.random.key(1), (32, 6))
KEYS = jax.random.split(jax.random.key(0), 5)
LABELS = jax.device_put(np.arange(32, dtype=np.int32) % 3)
STATES = ("raised", "clear", "undecided", "not_run")


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
    nets = {"zer_o": net_of("zer_o"), "plain": net_of()}
    return isometry.audit(nets, KEYS, XS, targets=LABELS, train_steps=2, inputs=2)


def test_a_mapping_gives_a_report_of_reports(reports):
    assert isinstance(reports, isometry.Reports)
    assert list(reports) == ["zer_o", "plain"]
    assert tuple(reports["zer_o"].flags) == isometry.flag_names()
    for flag in reports["zer_o"].flags.values():
        assert flag.state in STATES
        assert flag.raised == (flag.state == "raised")
        assert flag.source
        # A perceptron has no branches and no attention, and nothing is said of them.
        if not flag.reason.startswith("no "):
            assert flag.evidence
            assert flag.remedy
    assert reports.raised("zero_gradient") == []
    with pytest.raises(isometry.InputError, match="Did you mean 'vanishing'"):
        reports.raised("vanishin")


class Judges:
    """A flag of one's own whose judgement is given."""

    def __init__(self, found):
        self.found = found

    def __call__(self, measured, key):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def own(found):
    """The judgement of a flag of one's own, by an audit that has measured nothing."""
    one = _registry.Registered("own", Judges(found), None, rank=1, source="convention")
    record = types.SimpleNamespace(not_finite="")
    return _audit._flag_of(one, record, jax.random.key(0))


def test_a_flag_of_ones_own_keeps_its_name_and_has_its_source():
    assert own(isometry.Flag("own", "clear", "nothing")).source == "convention"
    for wrong in (None, isometry.Flag("other", "clear", "nothing")):
        with pytest.raises(isometry.InputError, match=r"return isometry.Flag\('own'"):
            own(wrong)
    with pytest.raises(isometry.InputError, match="Did you mean 'raised'"):
        isometry.Flag("own", "rised", "nothing")
    with pytest.raises(KeyError) as raised:
        own(KeyError("signals"))
    assert raised.value.__notes__ == ["Raised by the flag 'own'."]


def test_the_same_keys_give_the_same_report_and_one_network_its_own(reports):
    again = isometry.audit(net_of(), KEYS, XS, targets=LABELS, train_steps=2, inputs=2)
    assert isinstance(again, isometry.Report)
    first, second = (strict(r.to_json()) for r in (reports["plain"], again))
    for read in (first, second):
        del read["provenance"]["time"], read["timings"]
    assert first == second


def test_json_is_strict_and_complete(reports):
    read = strict(reports.to_json())["reports"]["plain"]
    report = reports["plain"]
    assert read["verdict"] == report.verdict
    assert list(read["flags"]) == list(report.flags)
    assert read["setting"]["examples"] == 32
    assert not read["setting"]["synthetic_targets"]
    log_s = np.asarray(report.spectra["end_to_end"].log_values)
    np.testing.assert_allclose(read["spectra"]["end_to_end"]["log_s"], log_s)


def test_the_law_of_the_hidden_layers_or_why_there_is_none(reports):
    laws = {name: report.as_dict()["law"] for name, report in reports.items()}
    assert laws["plain"]["name"] == "tanh, depth 1, orthogonal"
    assert reports["plain"].law.pairs == 1
    assert laws["zer_o"]["reason"].startswith("no law is known of zer_o")


def test_an_orthogonal_network_measures_as_one(reports):
    """s_max <= 1: |tanh'| <= 1, all weights are isometries; 3 products of 8 terms."""
    s_max = reports["plain"].statistics()["s_max"]
    assert 0 < s_max <= 1 + 1e-5


def test_a_network_of_zeros_is_reported_without_nan():
    """−inf and undefined are said in words and strings: strict JSON has no NaN."""
    report = isometry.audit(net_of("zeros"), KEYS, XS, train_steps=0, inputs=2)
    flags = report.flags
    assert flags["vanishing"].raised
    assert flags["vanishing"].value == -np.inf
    assert flags["anisometric"].state == "undecided"
    assert flags["zero_gradient"].raised
    assert flags["rank_constrained_training"].raised
    # Nothing is trained, at other widths neither.
    assert report.widths is None
    assert "NaN" not in report.to_json()
    assert "nan" not in report.table()


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
    loss = report.probe.loss
    np.testing.assert_allclose(loss, loss[:, :1] * [[1, 1]], rtol=1e-5)
    assert report.probe.gradient_rank.max() > 0
    runs = jax.vmap(net_of().init)(KEYS)["layers"]
    h = np.asarray(XS, float) @ np.asarray(runs[0]["w"], float)[0, 0]
    for run in runs[1:]:
        h = np.tanh(h) @ np.asarray(run["w"], float)[0, 0]
    # Sums of 96 terms in float32.
    np.testing.assert_allclose(loss[0], np.abs(h).sum(1).mean(), rtol=1e-5)


def test_signals_that_overflow_are_a_finding():
    """relu'(NaN) = 0 would make the Jacobian zero, and the network vanish."""
    net = networks.mlp(SIZES, "relu", "gaussian", sigma_w=1e15)
    report = isometry.audit(net, KEYS, XS, train_steps=0, inputs=2)
    flag = report.flags["exploding"]
    assert flag.raised
    assert "overflows float32 in seed 0" in flag.reason
    assert report.flags["locked_symmetry"].state == "clear"
    assert report.flags["vanishing"].state == "undecided"
    assert report.verdict == "raised"
    assert "overflows float32" in report.table(width=200)
    assert "NaN" not in report.to_json()


def test_parameters_that_are_nan_are_a_finding():
    params = jax.vmap(net_of().init)(KEYS)
    params["layers"][0]["w"] = params["layers"][0]["w"].at[2, 0, 1, 1].set(jnp.nan)
    report = isometry.audit(net_of(), params=params, xs=XS, train_steps=0, inputs=2)
    assert report.flags["exploding"].raised
    assert "is nan" in report.flags["exploding"].reason
    assert report.spectra == {}
    assert {
        flag.state for name, flag in report.flags.items() if name != "exploding"
    } == {"undecided"}


def test_without_a_certificate_everything_else_is_judged(monkeypatch):
    def refuse(*args):
        raise isometry.InputError("f computes in 16 bits.")

    monkeypatch.setattr(_probe, "certificates", refuse)
    report = isometry.audit(net_of(), KEYS, XS, train_steps=2, inputs=2)
    assert "not certified: f computes in 16 bits." in str(report)
    assert report.flags["vanishing"].state == "clear"
    assert report.flags["locked_symmetry"].state == "not_run"
    assert [row.layer for row in report.rows] == ["layers/0", "layers/1", "layers/2"]
    assert report.rows[0].distinct is None


# --- any network ---------------------------------------------------------------------


def deep(params, x):
    """Three layers of a plain function, with tanh."""
    x = jnp.tanh(x @ params["a"])
    x = jnp.tanh(x @ params["b"])
    return x @ params["c"]


# Jitted: seeds are drawn outside of jit, by a program for each shape and operation.
@jax.jit
def sample(key):
    shapes = {"a": (6, 8), "b": (8, 8), "c": (8, 3)}
    keys = jax.random.split(key, 3)
    return {
        name: jax.random.normal(one, shape) * (2 / shape[0]) ** 0.5
        for one, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def test_a_plain_function_is_judged_as_the_perceptron_that_it_is():
    """The same weights as a perceptron's: the same values of all flags of spectra."""
    params = jax.device_get(jax.vmap(sample)(KEYS))
    runs = []
    for name in ("a", "b", "c"):
        w = params[name][:, None]
        runs.append({"w": w, "b": np.zeros_like(w[:, :, 0])})
    how = {"xs": XS, "train_steps": 0, "inputs": 2}
    # Of fourth powers of products of three matrices.
    tolerance = 4 * rounding(3, max(SIZES))
    plain = isometry.audit(deep, KEYS, sample=sample, **how)
    perceptron = isometry.audit(net_of(), params={"layers": tuple(runs)}, **how)
    for name in ("vanishing", "anisometric", "below_floor", "zero_gradient"):
        assert plain.flags[name].state == perceptron.flags[name].state
        assert plain.flags[name].value == (
            pytest.approx(perceptron.flags[name].value, rel=tolerance, abs=tolerance)
        )
    assert plain.no_law == "no law: f is a plain function"


def test_schemes_of_one_architecture_share_all_programs():
    """A second scheme lowers nothing but what draws its weights; a third, nothing."""
    lowered = []

    def note(event, seconds, **about):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            lowered.append(about["fun_name"])

    how = {"keys": KEYS, "xs": XS, "train_steps": 2, "inputs": 2}
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        isometry.audit(net_of("gaussian"), **how)
        lowered.clear()
        isometry.audit(net_of("xavier"), **how)
        assert set(lowered) <= {"jit(_uniform)", "jit(reshape)"}
        lowered.clear()
        isometry.audit(net_of("kaiming"), **how)
        assert lowered == []
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_of_a_checkpoint_what_depends_on_the_draw_is_undecided():
    drawn = jax.device_get(jax.vmap(sample)(KEYS))
    params = {name: leaf[:1] for name, leaf in drawn.items()}
    # Zeros are a fact of this draw.
    params["b"] = np.zeros_like(params["b"])
    report = isometry.audit(deep, params=params, xs=XS, train_steps=0, inputs=2)
    assert report.flags["exploding"].state == "undecided"
    assert report.flags["exploding"].value is not None
    assert report.flags["zero_gradient"].raised
    assert "facts of this draw alone" in str(report)


class Head(nn.Module):
    """A convolution, and a head of zeros."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(x)


def test_a_zero_head_of_flax_recovers():
    """The head gets a gradient at once, what is below it from the second step on."""
    xs = jax.random.normal(jax.random.key(2), (32, 4, 4, 1))
    net = networks.flax(Head(), xs[0])
    report = isometry.audit(net, KEYS, xs, train_steps=3, inputs=2)
    flag = report.flags["zero_gradient"]
    assert flag.raised
    assert flag.where == ("Conv_0",)
    assert flag.evidence["kind"] == "recovering"
    rows = {row.layer: row for row in report.rows}
    assert rows["Conv_0"].gradient == 0
    assert rows["Conv_0"].flags == ("zero_gradient",)
    assert rows["Dense_0"].gradient > 0
    assert "Conv_0" in str(report)


def test_of_tokens_the_jacobian_begins_at_the_embedding():
    """With a floating mask beside them too, which is not what is meant by x."""

    def f(params, x):
        embedded = params["embed"][x["tokens"]]
        mean = x["mask"] @ embedded / 5
        return jnp.tanh(mean @ params["b"]) @ params["c"]

    @jax.jit
    def draw(key):
        return {**sample(key), "embed": jax.random.normal(key, (11, 8))}

    tokens = np.random.default_rng(3).integers(11, size=(32, 5), dtype=np.int32)
    xs = {"tokens": tokens, "mask": np.ones((32, 5), np.float32)}
    report = isometry.audit(f, KEYS, xs, sample=draw, train_steps=0, inputs=2)
    assert report.spectra["end_to_end"].span == ("embed", "output")
    assert "begins at 'embed'" in str(report)


def test_a_flag_of_ones_own_takes_part(monkeypatch):
    from isometry.verdicts import _registry

    monkeypatch.setattr(_registry, "_flags", dict(_registry._flags))
    monkeypatch.setattr(_registry, "_own_lines", dict(_registry._own_lines))

    @isometry.flag("wide_top", threshold=2.0, rank=500, source="convention")
    def judge(measured, key):
        line = measured.threshold("wide_top")
        sp = measured.spectra["end_to_end"]
        value = float(np.exp(np.asarray(sp.log_values)).max())
        state = "raised" if value > line else "clear"
        return isometry.Flag("wide_top", state, f"s_max {value:.2g}", value=value)

    lines = isometry.Thresholds(wide_top=0.1)
    report = isometry.audit(
        net_of(), KEYS, XS, train_steps=0, inputs=2, thresholds=lines
    )
    assert list(report.flags)[-1] == "wide_top"
    assert report.flags["wide_top"].raised


def test_progress_tells_parts_and_timings_hold_them():
    told = []
    report = isometry.audit(
        net_of(), KEYS, XS, train_steps=0, inputs=2, progress=told.append
    )
    assert told[0] == "network: reading the network"
    labels = [line.removeprefix("network: ") for line in told[1:]]
    # What takes milliseconds is timed and not told.
    untold = {"gains", "outliers", "units", "rank bounds", "forward"}
    assert set(labels) | untold == set(report.timings)
    # Units are read off the evaluation, whose time is not that of parameters.
    assert report.timings["evaluation"] > report.timings["units"]
    assert report.as_dict()["timings"] == report.timings
    assert len(labels) == len(set(labels))
    assert all(seconds >= 0 for seconds in report.timings.values())


# --- refusals ------------------------------------------------------------------------


@pytest.fixture
def no_compute(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed before everything was checked")

    monkeypatch.setattr(_audit, "_judged", refuse)


REFUSED = {
    "not a network": ({"f": 3}, "network is 3, not a network"),
    "one of a mapping": (
        {"f": {"good": net_of(), "bad": 3}},
        "bad is 3, not a network",
    ),
    "empty mapping": ({"f": {}}, "f is an empty mapping"),
    "a plain function without sample": ({"f": deep}, r"give sample=\(key -> params\)"),
    "no keys": ({"keys": 3}, "not a one-dimensional array of random keys"),
    "one key": ({"keys": jax.random.key(0)}, "jax.random.split"),
    "neither": ({"keys": None}, "keys is missing; write keys="),
    "several keys for one": ({"key": KEYS}, "not a single random key"),
    "features": (
        {"xs": XS[:, :5]},
        r"shape \(5,\), and this network takes rows of shape \(6,\)",
    ),
    "one example": ({"xs": XS[0]}, "this network takes rows of shape"),
    "no examples": ({"xs": XS[:0]}, "it must be one example a row, not empty"),
    "whole numbers": ({"xs": XS.astype(jnp.int32)}, "xs holds no floating numbers"),
    "nan": ({"xs": XS.at[3, 2].set(jnp.nan)}, "xs holds 1 values that are NaN"),
    "words for xs": ({"xs": "abc"}, "xs is 'abc', not an array of numbers"),
    "labels": (
        {"targets": LABELS + 1},
        "labels 1 to 3.*3 outputs; labels run from 0 to 2",
    ),
    "in a mapping": (
        {"f": {"plain": net_of()}, "targets": LABELS - 1},
        "of 'plain': targets are labels -1 to 1",
    ),
    "optimizer": ({"optimizer": 0.1}, "0.1 is not an optax optimizer"),
    "activation without a forward derivative": (
        {"f": networks.mlp(SIZES, reverse_only, "orthogonal", sigma_w=1.0)},
        r"the slope of .* cannot be taken, TypeError.*jax.custom_jvp",
    ),
    "training mode": (
        {"f": networks.flax(nn.Dense(3), XS[0]).training},
        "in training mode; write the network itself",
    ),
    "progress": ({"progress": "a"}, "progress='a' is no function of a stage's name"),
    "thresholds": (
        {"thresholds": {"log_gain": 2}},
        r"thresholds=\{'log_gain': 2\} is not a Thresholds",
    ),
    "steps": ({"train_steps": -1}, "train_steps=-1"),
    "half steps": ({"train_steps": 1.5}, "train_steps=1.5"),
    "inputs": ({"inputs": 0}, "inputs=0"),
}


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize(("changed", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_any_compute(changed, words):
    how = {"f": net_of(), "keys": KEYS, "xs": XS, **changed}
    with pytest.raises(isometry.InputError, match=words) as error:
        isometry.audit(**how)
    assert str(error.value).startswith("audit(): ")


@pytest.mark.usefixtures("no_compute")
def test_a_tracer_is_a_type_error():
    with pytest.raises(TypeError, match="xs is traced"):
        jax.jit(lambda xs: isometry.audit(net_of(), KEYS, xs))(XS)
