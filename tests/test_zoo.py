"""The zoo: its statistics against closed forms, its truth against isometry.theory, its commands, its page."""

import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

import isometry
from benchmarks.zoo import __main__, _calibrate, _nets, _predict, _report, _statistics, _truth
from benchmarks.zoo._case import FLAGS
from benchmarks.zoo._nets import ZOO, Config
from isometry import theory

# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 300])
def test_clopper_pearson(n):
    """Without errors the bound is 1 − (α/2)^{1/n}; in between the quantiles of two beta distributions."""
    low, high = _statistics.clopper_pearson(0, n)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-9)
    assert _statistics.clopper_pearson(n, n) == pytest.approx((1 - high, 1), rel=1e-9)
    k = n // 3
    if k:
        expected = stats.beta.ppf([0.025, 0.975], [k, k + 1], [n - k + 1, n - k])
        assert _statistics.clopper_pearson(k, n) == pytest.approx(tuple(expected), rel=1e-9)


def test_cluster_bootstrap():
    """Equal clusters have no width; of two, one all wrong, half the resamples are all alike; of many, the interval is
    the normal one of the clusters' means, whatever the draws in each."""
    assert _statistics.cluster_bootstrap([1, 2, 3], [10, 20, 30]) == pytest.approx((0.1, 0.1))
    assert _statistics.cluster_bootstrap([0, 7], [7, 7]) == (0, 1)
    wrong = [0] * 300 + [50] * 100
    low, high = _statistics.cluster_bootstrap(wrong, [50] * 400)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    noise = 4 * half / math.sqrt(_statistics.RESAMPLES * 0.025)  # of a 2.5 % quantile, with room
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=noise)


def test_a_rate_without_draws_is_none():
    assert _statistics.rate([], []) is None
    found = _statistics.rate([0, 3], [10, 20])
    assert found is not None
    assert (found["errors"], found["draws"], found["configurations"], found["rate"]) == (3, 30, 2, 0.1)


def test_rank_correlations():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    assert _statistics.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, rel=1e-12)
    assert _statistics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, rel=1e-12)
    ends = np.array([1.0, 2.0, np.inf, np.inf])
    assert _statistics.spearman(ends, ends) == pytest.approx(1)
    assert _statistics.kendall(ends, -np.arange(4.0)) < 0
    assert _statistics.kendall(np.ones(4), np.arange(4.0)) == 0


def test_a_lead_is_resampled_in_pairs():
    """Of a score with itself it is exactly 0, however wide both intervals are; of the target over its reverse, 2."""
    target = np.arange(12.0)
    noisy = target + np.random.default_rng(0).normal(size=12) * 5
    same = _statistics.paired(_statistics.kendall, {"first": noisy, "again": noisy}, target)
    assert same["lead"]["again"] == {"value": 0, "interval": (0, 0)}
    low, high = same["correlation"]["first"]["interval"]
    assert low < same["correlation"]["first"]["value"] < high
    ends = _statistics.paired(_statistics.kendall, {"best": target, "worst": -target}, target)
    assert ends["lead"]["worst"]["value"] == pytest.approx(2)


# --- truth ------------------------------------------------------------------------------------------------------------


def test_the_zoo_is_large_and_its_halves_are_fixed():
    assert len(ZOO) >= 60
    assert len({z.name for z in ZOO}) == len(ZOO)
    quoted = [z for z in ZOO if z.quoted]
    assert len(ZOO) / 3 < len(quoted) < 2 * len(ZOO) / 3
    # by the name alone: these do not move when the zoo grows
    halves = {z.name: z.quoted for z in ZOO}
    assert not halves["tanh-4x32-orthogonal"]
    assert halves["tanh-8x32-orthogonal"]
    assert halves["tanh-4x32-gaussian-w0.05"]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_asked_both_ways_in_both_halves(flag):
    # A perceptron has no branches and no attention, so that these can only be clear.
    answers = (False,) if flag in ("dead_branch", "attention_collapse") else (True, False)
    assert {(_truth.truth(z)[flag], z.quoted) for z in ZOO} >= {(t, q) for t in answers for q in (True, False)}
    healthy = [z for z in ZOO if z.quoted and _truth.truth(z)[flag] is False]
    assert sum(_calibrate.FULL.draws_of(z) for z in healthy) >= 300


def test_truth_names_flags_only():
    for z in ZOO:
        assert tuple(_truth.truth(z)) == FLAGS
        assert set(_truth.truth(z).values()) <= {True, False, None}


@pytest.mark.parametrize(
    ("activation", "sigma_w", "sigma_b"), [("tanh", 1.5, 0.2236), ("erf", 1.5, 0.3), ("leaky_relu", 1.2, 0.0)]
)
def test_the_mean_field_is_that_of_theory(activation, sigma_w, sigma_b):
    """Midpoints of 2048 equal masses leave out a relative 1e-3 of a Gaussian's fourth moment, in its tails."""
    found = _truth.field_of(Config("gaussian", activation, 5, 32, sigma_w, sigma_b))
    q0 = sigma_w**2 * _truth.Q_IN + sigma_b**2
    q = theory.q_trajectory(activation, q0, sigma_w, sigma_b, 3)
    np.testing.assert_allclose(found.q, np.ravel(q), rtol=5e-3)
    np.testing.assert_allclose(
        found.gain[1:] * found.slope2, [theory.chi(activation, v, sigma_w) for v in found.q], rtol=5e-3
    )
    c = sigma_b**2 / q0
    for v in found.q[:-1]:
        c = float(theory.c_map(activation, c, v, sigma_w, sigma_b) * 1)
    if activation != "leaky_relu":  # there q is not at a fixed point, which c_map is about
        assert found.log_apart == pytest.approx(math.log(1 - c), abs=0.2)
    settled = float(theory.q_fixed_point(activation, sigma_w, sigma_b).value) if activation != "leaky_relu" else 1.0
    assert found.chi == pytest.approx(float(theory.chi(activation, settled, sigma_w)), rel=5e-3)


def test_finite_width_is_that_of_hanin_and_nica():
    """Var ln ‖J v‖² grows by 5/n a ReLU layer and 2/n a linear one; nothing for orthogonal linear ones."""
    grows = {
        name: _truth.field_of(Config(*name, 8, 32)).log_norm_variance
        for name in (("kaiming", "relu"), ("gaussian", "linear"), ("orthogonal", "linear"))
    }
    for expected, found in zip((5, 2, 0), grows.values(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_plants():
    """Copies are copies to the bit, with signs; halves have half as many classes, scaled to the variance they had."""
    net = Config("gaussian", "tanh", 4, 32).net()
    params = jax.jit(net.init)(jax.random.key(0))

    def layers(plant):
        changed = jax.jit(lambda params: _nets.PLANTS[plant](net, params, None))(params)
        changed = jax.tree.map(np.asarray, changed)
        return [(np.asarray(layer.w), np.asarray(layer.b)) for layer in net.layers(changed)]

    plain = [layer.w for layer in net.layers(jax.tree.map(np.asarray, params))]
    for plant, sign in (("twin", 1), ("mirror_twin", -1)):
        (into, _), (out, _) = layers(plant)[1:3]
        assert (into[:, 1] == sign * into[:, 0]).all()
        assert (out[1] == sign * out[0]).all()
        assert np.linalg.matrix_rank(into) == 31
    halves = [w for w, _ in layers("halves")]
    assert [np.linalg.matrix_rank(w) for w in halves] == [16, 16, 16, 10]
    block = plain[1][:16, :16] / np.float32(2**0.5)
    np.testing.assert_allclose(halves[1], np.tile(block, (2, 2)), rtol=2 * np.finfo(np.float32).eps)
    assert not layers("zero_head")[-1][0].any()
    assert not layers("zero_layer")[2][0].any()
    assert (layers("dead_half")[2][1] == [-100] * 16 + [0] * 16).all()


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_calibrate(tmp_path, capsys, monkeypatch):
    """A smoke run; then, everything cached, the same record without a single audit."""
    assert __main__.main(["calibrate", "--smoke", "--out", str(tmp_path)]) == 0
    assert "zero_gradient" in capsys.readouterr().out
    record = json.loads((tmp_path / "calibrate.json").read_text(), parse_constant=pytest.fail)
    assert record["flags"].keys() == set(FLAGS)
    assert record["flags"]["vanishing"]["quoted"]["misses"]["errors"] == 0  # sigma_w = 0.05
    assert record["flags"]["locked_symmetry"]["tuning"]["misses"]["errors"] == 0  # zer_o
    assert record["family_wise"]["tuning"]["draws"] == 2
    monkeypatch.setattr(isometry, "audit", lambda *a, **k: pytest.fail("audited again"))
    again = _calibrate.run(True, tmp_path, lambda text: None)
    for key in ("flags", "family_wise", "configurations"):
        assert json.loads(json.dumps(again[key])) == record[key]


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    done = []

    def draw(config, preset, number):
        if done:
            raise KeyboardInterrupt
        done.append(config)
        return {flag: {"state": "clear", "value": 0.0, "line": 1.0} for flag in FLAGS}

    monkeypatch.setattr(_calibrate, "verdicts", draw)
    assert __main__.main(["calibrate", "--smoke", "--out", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "calibrate").iterdir()] == [f"{done[0].name}.json"]
    assert not (tmp_path / "calibrate.json").exists()


def test_undecided_is_a_miss_where_it_must_be_raised():
    """Counts on made-up verdicts: one healthy network with a false alarm, one planted that is never raised."""
    planted, healthy = (next(z for z in ZOO if z.quoted and _truth.truth(z)["vanishing"] is t) for t in (True, False))

    def verdict(state):
        return {f: {"state": state if f == "vanishing" else "clear", "value": 0.0, "line": 1.0} for f in FLAGS}

    drawn = {planted: [verdict("undecided"), verdict("clear")], healthy: [verdict("raised"), verdict("undecided")]}
    found = _calibrate.summary(drawn)
    rates = found["flags"]["vanishing"]["quoted"]
    assert {k: (r["errors"], r["draws"]) for k, r in rates.items()} == {
        "false_alarms": (1, 2),
        "undecided": (1, 2),
        "misses": (2, 2),
        "undecided_misses": (1, 2),
    }
    assert found["family_wise"]["quoted"]["errors"] == 1
    assert found["family_wise"]["tuning"] is None
    assert _report._decided(found, "quoted", ["vanishing"]) == "50 % of 4"
    assert _report._decided(found, "tuning", ["vanishing"]) == "–"


@pytest.mark.parametrize(
    ("optimum", "rate", "censored"),
    [(0, 0.1, False), (7, 0.1 * 4**7, False), (-4, 0.1 / 4**4, False), (100, 0.1 * 4**12, True)],
)
def test_the_grid_grows_until_the_best_lies_inside(optimum, rate, censored):
    """A parabola in the logarithm of the rate."""

    def losses(rates):
        return (np.log(np.asarray(rates) / 0.1) / np.log(4) - optimum) ** 2

    found = _predict.best_of(losses, extensions=2)
    assert found["censored"] == censored
    assert found["rate"] == pytest.approx(rate)
    assert found["losses"] == pytest.approx(losses(found["rates"]).tolist(), abs=1e-9)
    assert found["loss"] == min(found["losses"])


def test_a_loss_that_no_rate_changes_is_not_censored():
    found = _predict.best_of(lambda rates: np.full(len(rates), 2.3), extensions=2)
    assert len(found["rates"]) == 5
    assert not found["censored"]


def test_a_grid_on_which_everything_diverges_grows_downwards():
    """Up to the largest rate that trains; and what never does counts as chance."""
    found = _predict.best_of(lambda rates: np.where(rates < 1e-4, 1 - rates, np.inf), extensions=2)
    assert 1e-4 / 4 <= found["rate"] < 1e-4
    assert not found["censored"]
    never = _predict.best_of(lambda rates: np.full(len(rates), np.inf), extensions=2)
    assert (never["loss"], never["censored"], len(never["rates"])) == (_predict.CHANCE, True, 15)


@pytest.mark.slow
def test_predict(tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert __main__.main(["predict", "--smoke", "--out", str(tmp_path)]) == 0
    assert "lead over gradient norm" in capsys.readouterr().out
    record = json.loads((tmp_path / "predict.json").read_text(), parse_constant=pytest.fail)
    assert {n: row["healthy"] for n, row in record["networks"].items()} == {
        "tanh-4x32-orthogonal": True,
        "tanh-4x32-gaussian-w0.05": False,
        "tanh-4x32-zer_o": False,
    }
    for row in record["networks"].values():
        assert 0 < row["loss"] <= _predict.CHANCE * 1.01
    assert record["kendall"]["all"]["networks"] == 3


@pytest.mark.parametrize("argv", [["nonsense"], []])
def test_usage(argv):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(argv)


def test_the_page_is_that_of_the_records():
    assert _report.README.read_text() == _report.page()
