"""The byte budget's sources, and slices of large arrays that cost nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry._internal import memory

pytestmark = pytest.mark.core


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


@pytest.fixture
def mount(tmp_path):
    """Control groups: two of version 2, one in the other, and one of version 1."""
    stat = "anon 5\ninactive_file 100\n"
    group(tmp_path / "outer", memory__max=4000, memory__current=3500, memory__stat=stat)
    group(
        tmp_path / "outer" / "inner",
        memory__max="max",
        memory__current=300,
        memory__stat=stat,
    )
    old = {
        "memory__limit_in_bytes": 1000,
        "memory__usage_in_bytes": 1300,
        "memory__stat": "total_inactive_file 200\n",
    }
    group(tmp_path / "memory" / "old", **old)
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "free"),
    [
        # The outer limit binds: 4000 - 3500, and 100 that can be dropped.
        ("0::/outer/inner\n", [600]),
        ("0::/\n", []),
        # More is in use than is allowed.
        ("5:cpu:/old\n4:memory:/old\n", [0]),
        ("4:memory:/seen/from/outside\n", []),
        # Seen from another namespace.
        ("0::/../../outer/inner\n", [600]),
    ],
)
def test_limits_of_control_groups_count(mount, lines, free):
    (mount / "proc").write_text(lines)
    assert memory._free_of_groups(str(mount / "proc"), str(mount)) == free


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert memory._free_of_groups(str(tmp_path / "none"), str(tmp_path)) == []


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="other devices report their own memory"
)
def test_the_least_limit_is_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_free_of_groups", lambda: [12345])
    assert memory.free_bytes() == 12345


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the arrays lie on a device")
def test_a_slice_of_the_processors_memory_is_a_view():
    """Other arrays are sliced as they slice themselves."""
    a = jnp.arange(12.0).reshape(4, 3)
    view = memory.sliced(a, 1, 3)
    assert np.shares_memory(view, np.asarray(a))
    assert (view == np.asarray(a)[1:3]).all()
    keys = memory.sliced(jax.random.split(jax.random.key(0), 4), 1, 3)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    assert keys.shape == (2,)
