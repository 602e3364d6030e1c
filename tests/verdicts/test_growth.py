"""Growth of perturbations from layer to layer, on numbers written by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from isometry import networks
from isometry.verdicts._growth import growth_by_layer, worst_layers
from tests.verdicts.measuring import drawn, judged, measured, spectrum

NAN = math.nan
# Values behind activations, points that a path leads around, a block, and an average.
CHI = {
    "input": NAN,
    "stem": 4.0,
    "stem:out": 9.0,
    "first": NAN,
    "second:sum": 0.5,
    "conv": 2.0,
    "conv:out": NAN,
    "output": 1 / 16,
}
LAYERS = tuple(SimpleNamespace(name=name) for name in ("stem", "conv", "head"))
ANATOMY = SimpleNamespace(layers=LAYERS)


def test_layers_and_blocks_have_the_growth_of_all_paths():
    """The average of 16 pixels behind conv takes 1/16 away, which is put back."""
    chi = np.broadcast_to([*CHI.values()], (5, 2, len(CHI)))
    signals = SimpleNamespace(points=tuple(CHI), chi=chi)
    growths = growth_by_layer(signals, ANATOMY, {"conv": math.log(16) / 2})
    logs = {"stem": 4.0, "second": 0.5, "conv": 2.0, "head": 1.0}
    assert growths == pytest.approx({name: math.log(v) for name, v in logs.items()})


def test_the_worst_layer_comes_first_and_slight_ones_are_left_out():
    growths = {"a": -0.1, "b": -3.0, "c": 2.0, "d": -math.inf, "e": 0.1}
    assert worst_layers(growths, is_below=False) == ("c",)
    assert worst_layers(growths, is_below=True) == ("d",)
    del growths["d"]
    assert worst_layers(growths, is_below=True) == ("b",)
    assert worst_layers({"a": 1.0}, is_below=True) == ()


def test_flags_name_the_layers_of_their_span():
    """The stem grows most, and the hidden span, which begins behind it, without it."""
    net = networks.mlp([4] * 7, "tanh", "gaussian", 3.0)
    chi = {"input": NAN, "layers/0": 1e9, "layers/1[0]": 1.0, "layers/1[1]": 20.0}
    chi |= {"layers/1[2]": 50.0, "layers/1[3]": 0.5, "output": 1e3}
    signals = SimpleNamespace(points=tuple(chi), chi=np.array([[[*chi.values()]]]))
    grown = spectrum(np.full((6, 1, 4), 100.0))
    one = measured(
        net,
        params=drawn(net, 3.0),
        xs=np.ones((1, 4), np.float32),
        spectra={"end_to_end": grown, "hidden": grown},
        signals=signals,
        forward={},
        lines={"depth_scales": 1.0},
    )
    assert judged("chaotic_phase", one).where == ("layers/1[2]", "layers/1[1]")
    everywhere = judged("exploding", one).where
    assert everywhere == ("layers/0", "layers/2", "layers/1[2]", "layers/1[1]")
    # Where nothing is known of layers, the span is named.
    one.parts["signals"] = None
    vars(one).pop("growth_by_layer")
    assert judged("chaotic_phase", one).where == ("layers/0", "layers/1[3]")
