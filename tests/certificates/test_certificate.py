"""What a user reads: rows, findings in words, what to do, within a screen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import certificates, networks, structure
from isometry.certificates import _certify
from tests.certificates import models


@pytest.fixture(scope="module")
def cert():
    return certificates.certify(
        models.transformer, models.with_heads(-1), models.TOKEN_IDS
    )


def test_certificate_fits_a_screen(cert):
    lines = repr(cert).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_certificate_says_what_to_do_and_for_which_optimizers(cert):
    text = repr(cert)
    assert "query: 4 heads, 3 distinct up to sign" in text
    assert "Draw query, key, value and output of each head" in text
    assert "holds for SGD, momentum, Adam" in text
    assert "not with parameter noise" in text


def test_table_has_a_row_for_each_weight_in_order(cert):
    lines = cert.table().splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == [row.name for row in cert.layers]
    assert max(map(len, lines)) <= 80


def test_long_names_and_many_layers_fit_a_screen():
    net = networks.mlp([4] * 40, "tanh", jax.nn.initializers.ones)
    params = jax.jit(net.init)(jax.random.key(0))
    lines = repr(certificates.certify(net, params)).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("more like these" in line for line in lines)


def test_dictionary_is_strict_json(cert):
    again = json.loads(json.dumps(cert.to_dict(), allow_nan=False))
    assert again["clear"] is False
    assert [row["name"] for row in again["layers"]] == [row.name for row in cert.layers]


def test_findings_say_for_which_optimizers_they_hold():
    """Muon keeps matrices that are constant on blocks, and no others."""

    def f(params, x):
        return x @ params["u"] @ (params["m"] * mask) @ params["v"]

    mask = np.tril(np.ones((4, 4), np.float32))
    params = {"u": models.normal(4, 4), "v": models.normal(4, 2)}
    params["m"] = models.normal(4, 4, seed=7)
    masked = certificates.certify(f, params, np.ones(4, np.float32))
    (finding,) = masked.findings
    assert finding.what == "38 % of the entries never get a gradient"
    assert "Muon" not in finding.holds_for
    equal = certificates.certify(
        models.two_layers(), models.equal_layers(), np.ones(4, np.float32)
    )
    assert "Muon" in equal.findings[0].holds_for


def test_no_unit_behind_statistics_of_a_batch_is_zero_for_ever():
    """A drawn variance may be negative, and one bias may switch a unit off."""

    def f(params, x):
        norm = jax.lax.stop_gradient(params["variance"])
        return jax.nn.relu(x @ params["w"] / jnp.sqrt(norm) + params["b"]) @ params["v"]

    params = {"w": models.normal(3, 16), "v": models.normal(16, 2)}
    params |= {"variance": np.ones(16, np.float32), "b": models.normal(16)}
    certificate = certificates.certify(f, params, np.ones(3, np.float32))
    assert (certificate.units("w:out").ids > 0).all()


def test_places_of_a_window_that_read_padding_alone_are_counted():
    """On a map of one pixel a 3 × 3 window with SAME padding reads its centre."""

    def f(params, x):
        y = jax.lax.conv_general_dilated(
            x[None],
            params["w"],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y[0, 0, 0]

    params = {"w": models.normal(3, 3, 2, 2)}
    padded = certificates.certify(f, params, np.ones((1, 1, 2), np.float32))
    (finding,) = padded.findings
    assert finding.what == "8 of 9 places of its window never get a gradient"
    assert "padding" in finding.remedy


def test_units_are_those_of_a_point(cert):
    """Head 1 is the opposite of head 0, so their queries are opposite."""
    units = cert.units("query")
    ids, signs = units.ids[0], units.signs[0]
    assert np.array_equal(ids[0], ids[1])
    assert (signs[0] == -signs[1]).all()
    assert len(set(ids.ravel().tolist())) == 3 * ids.shape[1]
    # Heads and their channels are units, and tokens are positions.
    assert units.distinct() == 3 * ids.shape[1]
    assert repr(units) == (
        f"Units('query': {ids.size} channels at {len(units.ids)} positions, "
        f"{3 * ids.shape[1]} distinct)"
    )


def test_units_of_healthy_and_dead_layers():
    net = networks.mlp([2, 6, 3], "relu", "partial_identity", bias=False)
    cert = certificates.certify(net, jax.jit(net.init)(jax.random.key(0)))
    units = cert.units("layers/0:out")
    assert units.ids.tolist() == [1, 2, 0, 0, 0, 0]
    assert units.distinct() == 2
    assert repr(units) == "Units('layers/0:out': 6 values, 2 distinct, 4 zero for ever)"


def test_units_of_a_convolution_are_channels_at_all_positions():
    """Two equal channels of four, and one that nothing reaches."""

    def f(params, x):
        y = jax.lax.conv_general_dilated(
            x[None],
            params["w"],
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.tanh(y[0]).mean((0, 1)) @ params["head"]

    w, head = models.normal(3, 3, 1, 4), models.normal(4, 2)
    w[..., 1], head[1] = w[..., 0], head[0]
    w[..., 2], head[2] = 0, 0
    params = {"w": w, "head": head}
    units = certificates.certify(f, params, np.ones((5, 5, 1))).units("w")
    assert units.distinct() == 2
    assert units.ids.shape == (1, 5, 5, 4)
    assert repr(units) == (
        "Units('w': 4 channels at 25 positions, 2 distinct, 1 zero for ever)"
    )


def test_several_draws_of_a_network_are_read_once(monkeypatch):
    """Each has the certificate that it has alone."""
    net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
    ones = jax.tree.map(np.array, net.init(jax.random.key(0)))
    draws = [ones, jax.tree.map(np.zeros_like, ones)]
    alone = [certificates.certify(net, params) for params in draws]
    read = []

    def counted(*args):
        read.append(args)
        return anatomy(*args)

    anatomy = structure.anatomy
    monkeypatch.setattr(structure, "anatomy", counted)
    together = _certify.certify_each(net, draws, None)
    assert [cert.layers for cert in together] == [cert.layers for cert in alone]
    assert together[0].layers != together[1].layers
    assert len(read) == 1
    draws[1]["layers"][0]["w"][0, 0, 0] = np.nan
    with pytest.raises(isometry.InputError, match="is nan"):
        _certify.certify_each(net, draws, None)


def test_equal_draws_are_certified_once(monkeypatch):
    """Bit by bit: -0.0 is another draw than 0.0, though they compare equal."""
    net = networks.mlp([3, 3, 3], "tanh", "identity")
    draws = [net.init(jax.random.key(seed)) for seed in range(2)]
    negative = jax.tree.map(lambda leaf: leaf * 1.0, draws[0])
    negative["layers"][0]["b"] = -negative["layers"][0]["b"]
    certified = []

    def counted(*args):
        certified.append(args)
        return one(*args)

    one = _certify._certified
    monkeypatch.setattr(_certify, "_certified", counted)
    found = _certify.certify_each(net, [*draws, negative, draws[1]], None)
    assert len(certified) == 2
    assert found[0] is found[1] is found[3]
    assert found[2] is not found[0]


def test_unknown_point_is_refused(cert):
    with pytest.raises(isometry.InputError, match="names no point"):
        cert.units("nowhere")


def test_clear_does_not_count_what_is_harmless():
    def f(params, x):
        return x @ (jnp.ones((4, 3)) + params["A"] @ params["B"])

    params = {"A": models.normal(4, 2), "B": np.zeros((2, 3), np.float32)}
    cert = certificates.certify(f, params, np.ones(4, np.float32))
    assert cert.clear
    assert str(cert.findings[0]) == "A: first gradient at step 2"
    assert "clear" in repr(cert)


@pytest.mark.parametrize(("num_off", "is_clear"), [(2, True), (6, False)])
def test_heading_names_evidence_and_most_units_off_are_not_clear(num_off, is_clear):
    """Chance turns off some units of a healthy layer, and not three in four."""
    net = networks.mlp([4, 8, 3], "relu")
    params = jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(0)))
    params["layers"][0]["b"][..., :num_off] = -100.0
    cert = certificates.certify(net, params)
    assert cert.clear is is_clear
    *_, heading = "\n".join(repr(cert).splitlines()[:2]).partition("): ")
    expected = "clear, but " * is_clear + "evidence for 2 of 2 weights"
    what = f"8 units, {8 - num_off} distinct, {num_off} never move"
    assert " ".join(heading.split()) == f"{expected} (layers/0: {what})"
