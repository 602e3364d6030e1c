"""A record says which code, on which machine, made a number."""

import pathlib
import re
import subprocess

import jax
import numpy as np

import isometry
from isometry._internal import provenance, strict_json


def test_record_names_versions_device_and_settings():
    record = provenance.provenance(seed=3)
    assert record["versions"]["isometry"] == isometry.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["device"]["count"] == jax.device_count()
    assert record["seed"] == 3
    assert strict_json.dumps(record)


def test_commit_is_that_of_the_checkout():
    root = pathlib.Path(isometry.__file__).parents[1]
    words = ["git", "-C", str(root), "rev-parse", "HEAD"]
    head = subprocess.run(words, capture_output=True, text=True, check=False)
    commit = provenance.git_commit()
    if (root / ".git").exists():
        assert re.fullmatch(re.escape(head.stdout.strip()) + r"(\+dirty)?", commit)
    else:
        assert commit is None


def test_code_outside_a_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert provenance.git_commit() is None


def test_code_inside_somebody_elses_checkout_has_no_commit(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path / "site-packages")
    assert provenance.git_commit() is None
