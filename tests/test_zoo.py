"""Perceptrons of the zoo: statistics, truth, commands, the page."""

import json
import math

import jax
import numpy as np
import pytest
from scipy import stats

import isometry
from benchmarks.zoo import (
    __main__,
    _calibrate,
    _nets,
    _predict,
    _report,
    _statistics,
    _truth,
)
from benchmarks.zoo._case import FLAGS
from benchmarks.zoo._nets import ZOO, Config
from isometry import theory

# What a perceptron does not have, so that flags of it can only be clear.
NEVER_RAISED = ("dead_branch", "attention_collapse")


# Statistics.


@pytest.mark.parametrize("trials", [1, 300])
def test_clopper_pearson_is_the_exact_interval(trials):
    """Closed forms without errors and with errors only; else quantiles of betas.

    Without errors the upper end is 1 - (alpha/2)^(1/n).
    """
    low, high = _statistics.clopper_pearson(0, trials)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / trials), rel=1e-9)
    all_wrong = _statistics.clopper_pearson(trials, trials)
    assert all_wrong == pytest.approx((1 - high, 1), rel=1e-9)
    errors = trials // 3
    if errors:
        right = trials - errors
        expected = stats.beta.ppf(
            [0.025, 0.975], [errors, errors + 1], [right + 1, right]
        )
        interval = _statistics.clopper_pearson(errors, trials)
        assert interval == pytest.approx(tuple(expected), rel=1e-9)


def test_cluster_bootstrap_is_as_wide_as_clusters_differ():
    """Equal clusters have no width; of many, the interval is that of normal means.

    Of two clusters, one of them all wrong, half of the resamples are of one alone. Of
    many, only the means of the clusters count, not the draws in each.
    """
    equal = _statistics.cluster_bootstrap([1, 2, 3], [10, 20, 30])
    assert equal == pytest.approx((0.1, 0.1))
    assert _statistics.cluster_bootstrap([0, 7], [7, 7]) == (0, 1)
    errors = [0] * 300 + [50] * 100
    low, high = _statistics.cluster_bootstrap(errors, [50] * 400)
    deviation = math.sqrt(0.25 * 0.75 / 400)
    expected = (0.25 - 1.96 * deviation, 0.25 + 1.96 * deviation)
    # A quantile of 2.5 % of 4000 normal numbers has a standard error of 0.04
    # deviations: four of them, and the step between means of 400 clusters.
    tolerance = 4 * 0.04 * deviation + 1 / 400
    assert (low, high) == pytest.approx(expected, abs=tolerance)


def test_rate_of_clusters_is_the_rate_of_all_draws():
    """3 of 10 + 20 draws; without draws there is no rate."""
    assert _statistics.rate([], []) is None
    rate = _statistics.rate([0, 3], [10, 20])
    assert rate is not None
    assert (rate["errors"], rate["draws"], rate["configurations"]) == (3, 30, 2)
    assert rate["rate"] == 0.1


def test_rank_correlations_are_those_of_scipy():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    tau = stats.kendalltau(a, b).statistic
    rho = stats.spearmanr(a, b).statistic
    assert _statistics.kendall(a, b) == pytest.approx(tau, rel=1e-12)
    assert _statistics.spearman(a, b) == pytest.approx(rho, rel=1e-12)


def test_rank_correlations_take_infinities_and_constants():
    """Two infinities are a tie; a constant ranks nothing."""
    scores = np.array([1.0, 2.0, np.inf, np.inf])
    assert _statistics.spearman(scores, scores) == pytest.approx(1)
    assert _statistics.kendall(scores, -np.arange(4.0)) < 0
    assert _statistics.kendall(np.ones(4), np.arange(4.0)) == 0


def test_lead_is_resampled_in_pairs():
    """Over itself it is exactly 0, however wide the intervals; over the reverse 2."""
    target = np.arange(12.0)
    noisy = target + np.random.default_rng(0).normal(size=12) * 5
    scores = {"first": noisy, "again": noisy}
    same = _statistics.paired(_statistics.kendall, scores, target)
    assert same["lead"]["again"] == {"value": 0, "interval": (0, 0)}
    first = same["correlation"]["first"]
    low, high = first["interval"]
    assert low < first["value"] < high
    scores = {"best": target, "worst": -target}
    ends = _statistics.paired(_statistics.kendall, scores, target)
    assert ends["lead"]["worst"]["value"] == pytest.approx(2)


# Truth.


def test_the_zoo_is_large_and_its_halves_are_fixed():
    """The half depends on the name alone, so it does not move when the zoo grows."""
    assert len(ZOO) >= 60
    halves = {config.name: config.quoted for config in ZOO}
    assert len(halves) == len(ZOO)
    assert len(ZOO) / 3 < sum(halves.values()) < 2 * len(ZOO) / 3
    assert not halves["tanh-4x32-orthogonal"]
    assert halves["tanh-8x32-orthogonal"]
    assert halves["tanh-4x32-gaussian-w0.05"]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_asked_both_ways_in_both_halves(flag):
    """And its false alarms are counted over 300 draws that are quoted."""
    answers = (False,) if flag in NEVER_RAISED else (True, False)
    asked = {(_truth.truth(config)[flag], config.quoted) for config in ZOO}
    assert asked >= {(answer, half) for answer in answers for half in (True, False)}
    healthy = [
        config
        for config in ZOO
        if config.quoted and _truth.truth(config)[flag] is False
    ]
    assert sum(_calibrate.FULL.draws_of(config) for config in healthy) >= 300


def test_truth_is_of_every_flag():
    for config in ZOO:
        truth = _truth.truth(config)
        assert tuple(truth) == FLAGS
        assert set(truth.values()) <= {True, False, None}


@pytest.mark.parametrize(
    ("activation", "sigma_w", "sigma_b"),
    [("tanh", 1.5, 0.2236), ("erf", 1.5, 0.3), ("leaky_relu", 1.2, 0.0)],
)
def test_the_mean_field_is_that_of_theory(activation, sigma_w, sigma_b):
    """Variances, slopes, correlation and chi, against `isometry.theory`.

    Midpoints of 2048 equal masses leave out a relative 6e-4 of the second moment of a
    Gaussian, in its tails.
    """
    field = _truth.field_of(Config("gaussian", activation, 5, 32, sigma_w, sigma_b))
    q_first = sigma_w**2 * _truth.Q_IN + sigma_b**2
    q = theory.q_trajectory(activation, q_first, sigma_w, sigma_b, 3)
    np.testing.assert_allclose(field.q, np.ravel(q), rtol=5e-3)
    chis = [theory.chi(activation, q_layer, sigma_w) for q_layer in field.q]
    np.testing.assert_allclose(field.gain[1:] * field.slope2, chis, rtol=5e-3)
    if activation == "leaky_relu":
        # Its variance falls to 0. The mean square of its derivative is the same at any.
        q_star = 1.0
    else:
        q_star = float(theory.q_fixed_point(activation, sigma_w, sigma_b).value)
        c = sigma_b**2 / q_first
        for q_layer in field.q[:-1]:
            c = float(theory.c_map(activation, c, q_layer, sigma_w, sigma_b))
        # `c_map` is about a fixed point of the variance, to which this one is close.
        assert field.log_apart == pytest.approx(math.log(1 - c), abs=0.2)
    chi = float(theory.chi(activation, q_star, sigma_w))
    assert field.chi == pytest.approx(chi, rel=5e-3)


@pytest.mark.parametrize(
    ("scheme", "activation", "expected"),
    [("kaiming", "relu", 5), ("gaussian", "linear", 2), ("orthogonal", "linear", 0)],
)
def test_fluctuation_of_finite_width_is_that_of_hanin_and_nica(
    scheme, activation, expected
):
    """Var ln |J v|^2 grows by 5/n a ReLU layer, by 2/n a linear one (2018).

    An orthogonal linear layer keeps |v|.
    """
    field = _truth.field_of(Config(scheme, activation, 8, 32))
    np.testing.assert_allclose(field.log_norm_variance, expected, atol=1e-9)


@pytest.fixture(scope="module")
def network():
    """A network of three weights of 32 units, and its parameters."""
    net = Config("gaussian", "tanh", 4, 32).net()
    return net, jax.jit(net.init)(jax.random.key(0))


def planted(network, name):
    """The weights and biases of the layers with a fault in them."""
    net, params = network
    plant = jax.jit(lambda params: _nets.PLANTS[name](net, params, None))
    changed = jax.tree.map(np.asarray, plant(params))
    return [(np.asarray(layer.w), np.asarray(layer.b)) for layer in net.layers(changed)]


@pytest.mark.parametrize(("name", "sign"), [("twin", 1), ("mirror_twin", -1)])
def test_planted_twins_are_copies_to_the_bit(network, name, sign):
    (into, _), (out, _) = planted(network, name)[1:3]
    assert (into[:, 1] == sign * into[:, 0]).all()
    assert (out[1] == sign * out[0]).all()
    assert np.linalg.matrix_rank(into) == 31


def test_planted_halves_have_half_as_many_units_of_the_same_variance(network):
    net, params = network
    weights = [w for w, _ in planted(network, "halves")]
    assert [np.linalg.matrix_rank(w) for w in weights] == [16, 16, 16, 10]
    layers = list(net.layers(jax.tree.map(np.asarray, params)))
    block = layers[1].w[:16, :16] / np.float32(2**0.5)
    # Of the division, in one order of its roundings or the other.
    tolerance = 2 * np.finfo(np.float32).eps
    np.testing.assert_allclose(weights[1], np.tile(block, (2, 2)), rtol=tolerance)


def test_planted_zeros_and_biases_are_where_they_must_be(network):
    assert not planted(network, "zero_head")[-1][0].any()
    assert not planted(network, "zero_layer")[2][0].any()
    _, biases = planted(network, "dead_half")[2]
    assert (biases == [-100] * 16 + [0] * 16).all()


# Commands.


@pytest.mark.slow
def test_calibrate_finds_what_was_planted(tmp_path, capsys, monkeypatch):
    """And again from what lies on disk, the same record without a single audit."""
    command = ["calibrate", "--smoke", "--out", str(tmp_path)]
    assert __main__.main(command) == 0
    assert "zero_gradient" in capsys.readouterr().out
    text = (tmp_path / "calibrate.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    flags = record["flags"]
    assert flags.keys() == set(FLAGS)
    # Weights of sigma_w = 0.05, and ZerO.
    assert flags["vanishing"]["quoted"]["misses"]["errors"] == 0
    assert flags["locked_symmetry"]["tuning"]["misses"]["errors"] == 0
    assert record["family_wise"]["tuning"]["draws"] == 2

    def audit(*arguments, **named):
        pytest.fail("audited again")

    monkeypatch.setattr(isometry, "audit", audit)
    again = _calibrate.run(True, tmp_path, lambda text: None)
    for key in ("flags", "family_wise", "configurations"):
        assert json.loads(json.dumps(again[key])) == record[key]


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    finished = []

    def verdicts(config, preset, number):
        if finished:
            raise KeyboardInterrupt
        finished.append(config)
        return {flag: {"state": "clear", "value": 0.0, "line": 1.0} for flag in FLAGS}

    monkeypatch.setattr(_calibrate, "verdicts", verdicts)
    assert __main__.main(["calibrate", "--smoke", "--out", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err
    kept = [path.name for path in (tmp_path / "calibrate").iterdir()]
    assert kept == [f"{finished[0].name}.json"]
    assert not (tmp_path / "calibrate.json").exists()


def quoted_network(must_vanish):
    """The first network of the quoted half with this truth."""
    for config in ZOO:
        if config.quoted and _truth.truth(config)["vanishing"] is must_vanish:
            return config
    pytest.fail("no such network")


def draw(state):
    """A draw of which nothing is said but of `vanishing`."""
    clear = {"state": "clear", "value": 0.0, "line": 1.0}
    return {flag: dict(clear) for flag in FLAGS} | {
        "vanishing": {"state": state, "value": 0.0, "line": 1.0}
    }


def test_undecided_is_a_miss_where_it_must_be_raised():
    """Counts by hand: a healthy network with a false alarm, a planted one missed."""
    drawn = {
        quoted_network(True): [draw("undecided"), draw("clear")],
        quoted_network(False): [draw("raised"), draw("undecided")],
    }
    record = _calibrate.summary(drawn)
    rates = record["flags"]["vanishing"]["quoted"]
    counts = {name: (rate["errors"], rate["draws"]) for name, rate in rates.items()}
    assert counts == {
        "false_alarms": (1, 2),
        "undecided": (1, 2),
        "misses": (2, 2),
        "undecided_misses": (1, 2),
    }
    assert record["family_wise"]["quoted"]["errors"] == 1
    assert record["family_wise"]["tuning"] is None
    assert _report._decided(record, "quoted", ["vanishing"]) == "50 % of 4"
    assert _report._decided(record, "tuning", ["vanishing"]) == "–"


@pytest.mark.parametrize(
    ("optimum", "rate", "is_censored"),
    [
        (0, 0.1, False),
        (7, 0.1 * 4**7, False),
        (-4, 0.1 / 4**4, False),
        # Beyond the 15 rates of a grid that grows twice.
        (100, 0.1 * 4**12, True),
    ],
)
def test_the_grid_grows_until_the_best_lies_inside(optimum, rate, is_censored):
    """A parabola in the logarithm of the rate, whose minimum is known."""

    def losses_at(rates):
        return (np.log(np.asarray(rates) / 0.1) / np.log(4) - optimum) ** 2

    best = _predict.best_of(losses_at, extensions=2)
    assert best["censored"] == is_censored
    assert best["rate"] == pytest.approx(rate)
    expected = losses_at(best["rates"]).tolist()
    assert best["losses"] == pytest.approx(expected, abs=1e-9)
    assert best["loss"] == min(best["losses"])


def test_a_loss_that_no_rate_changes_is_not_censored():
    best = _predict.best_of(lambda rates: np.full(len(rates), 2.3), extensions=2)
    assert len(best["rates"]) == 5
    assert not best["censored"]


def test_a_grid_on_which_everything_diverges_grows_downwards():
    """Until it holds the largest rate that trains, 1e-4 to within the factor of 4."""

    def losses_at(rates):
        return np.where(rates < 1e-4, 1 - rates, np.inf)

    best = _predict.best_of(losses_at, extensions=2)
    assert 1e-4 / 4 <= best["rate"] < 1e-4
    assert not best["censored"]


def test_what_never_trains_counts_as_chance():
    best = _predict.best_of(lambda rates: np.full(len(rates), np.inf), extensions=2)
    assert best["loss"] == _predict.CHANCE
    assert best["censored"]
    assert len(best["rates"]) == 15


@pytest.mark.slow
def test_predict_writes_losses_below_chance(tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert __main__.main(["predict", "--smoke", "--out", str(tmp_path)]) == 0
    assert "lead over gradient norm" in capsys.readouterr().out
    text = (tmp_path / "predict.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    healthy = {name: row["healthy"] for name, row in record["networks"].items()}
    assert healthy == {
        "tanh-4x32-orthogonal": True,
        "tanh-4x32-gaussian-w0.05": False,
        "tanh-4x32-zer_o": False,
    }
    for row in record["networks"].values():
        assert 0 < row["loss"] <= _predict.CHANCE * 1.01
    assert record["kendall"]["all"]["networks"] == 3


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_bad_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(arguments)


def test_the_page_is_that_of_the_records():
    assert _report.README.read_text() == _report.page()
