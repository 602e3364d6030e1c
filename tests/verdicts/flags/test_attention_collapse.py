"""The flag attention_collapse: tokens made alike, and queries and keys at zero."""

import jax
import numpy as np

from tests.verdicts.audited import again, certificate, judged, measured
from tests.verdicts.conftest import TOKENS


def test_a_healthy_transformer_is_clear(transformer):
    _, _, healthy = transformer
    flag = judged("attention_collapse", healthy)
    assert flag.state == "clear"
    assert -2 < flag.value < 1
    assert flag.threshold == -6


def test_without_skips_attention_averages_the_tokens():
    """Rank collapse of pure attention, doubly exponential (Dong et al. 2021)."""

    def f(params, x):
        h = params["embedding"][x]
        for block in range(4):
            p = jax.tree.map(lambda leaf, i=block: leaf[i], params["blocks"])
            logits = (h @ p["query"]) @ (h @ p["key"]).T
            h = jax.nn.softmax(logits) @ (h @ p["value"]) @ p["output"]
        return h @ params["head"]

    rng = np.random.default_rng(0)

    def drawn(*shape, std):
        return (std * rng.normal(size=(5, *shape))).astype(np.float32)

    names = ("query", "key", "value", "output")
    params = {
        "embedding": drawn(9, 8, std=1.0),
        "blocks": {name: drawn(4, 8, 8, std=0.3) for name in names},
        "head": drawn(8, 3, std=0.3),
    }
    flag = judged("attention_collapse", measured(f, params, TOKENS))
    assert flag.raised
    assert flag.value < -6
    assert "tokens" in flag.reason
    assert flag.where == ("blocks/output[3]",)


def test_queries_and_keys_of_zero_never_learn(transformer):
    """Each is the gradient of the other; with one of them drawn both learn."""
    _, _, healthy = transformer
    names = [f"blocks/attention/{name}[1]" for name in ("query", "key")]
    late = certificate(healthy.subject, **{names[0]: None, names[1]: 2})
    flag = judged("attention_collapse", again(healthy.subject, [late]))
    assert flag.state == "clear"
    locked = certificate(healthy.subject, **dict.fromkeys(names))
    flag = judged("attention_collapse", again(healthy.subject, [late, locked]))
    assert flag.raised
    assert set(flag.where) == set(names)
    assert "no gradient at any step, certified" in flag.reason


def test_a_network_without_attention_is_clear(cnn):
    flag = judged("attention_collapse", cnn[2])
    assert flag.state == "clear"
    assert flag.reason == "no attention"


def test_few_seeds_are_undecided(transformer):
    few = again(transformer[2].subject, least_seeds=6)
    assert judged("attention_collapse", few).state == "undecided"
