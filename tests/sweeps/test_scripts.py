"""The examples of sweeps, on coarse grids."""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["order_chaos", "trainability", "convolutional_isometry", "batch_norm_growth"],
)
def test_example_sweeps_draws_and_says_what_it_found(name, tmp_path, capsys):
    """A second call finds all cells done, and draws the same."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    texts, pictures = [], []
    for _ in range(2):
        script.main(tmp_path, quick=True)
        texts.append(capsys.readouterr().out)
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert len(texts[0].splitlines()) >= 2
    assert texts[0] == texts[1]
    assert pictures[0] == pictures[1]
