"""The house stands: imports run only downward, through public JAX, and `import isometry` costs nothing."""

import ast
import pathlib
import subprocess
import sys

import pytest

import isometry

ROOT = pathlib.Path(isometry.__file__).parent
FLOORS = {
    0: ("_internal",),
    1: ("_checks",),
    1.5: ("activations", "linalg", "data", "store"),
    2: ("theory",),
    3: ("initializers",),
    4: ("schemes",),
    5: ("networks",),
    5.5: ("_tracing",),
    6: ("_jacobian",),
    7: ("_spectrum",),
    7.5: ("_cost", "_devices", "_draws"),
    7.7: ("_measure",),
    8: ("_ensemble",),
    8.5: ("_ranks",),
    9: ("_compare",),
    9.5: ("_pairing",),
    10: ("degeneracy",),
    10.4: ("_self_test",),
    10.5: ("_doctor", "_summary"),
    11: ("plots",),
    11.7: ("_cli_common",),
    11.8: ("_cli_audit", "_cli_spectrum", "_cli_theory", "_cli_schemes", "_cli_doctor"),
    12: ("cli",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FLOOR["__init__"] = 11.5  # only the command line stands above the face
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
EXTRAS = ("rich", "typer", "matplotlib", "sklearn", "xarray", "zarr", "torch", "flax", "equinox", "haiku")


def imported(path):
    """Every (module, name) that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def rooms_imported(path):
    for module, name in imported(path):
        parts = module.split(".")
        if parts[0] != "isometry":
            continue
        if len(parts) == 1 and name is None:  # the face re-exports every room below the command line
            yield "__init__"
        else:
            yield parts[1] if len(parts) > 1 else name


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def allowed(room, other):
    if room == other:
        return ROOT.joinpath(room).is_dir()
    return FLOOR[other] < FLOOR[room]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path):
    room = room_of(path)
    assert room in FLOOR, f"{room} has no floor"
    others = set(rooms_imported(path))
    assert others <= set(FLOOR), f"{room} imports {others - set(FLOOR)}, which is no room"
    assert [other for other in sorted(others) if not allowed(room, other)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_jax(path):
    modules = [f"{module}.{name}" if name else module for module, name in imported(path)]
    assert [m for m in modules if m.startswith(("jax._", "jaxlib"))] == []
    assert "jax._src" not in path.read_text()


def test_every_room_exists():
    found = {room_of(path) for path in FILES}
    assert found == set(FLOOR) - {"__init__"}


def test_the_rule_can_fail():
    assert not allowed("activations", "linalg")
    assert not allowed("_internal", "_checks")
    assert not allowed("_checks", "_checks")
    assert not allowed("theory", "networks")
    assert allowed("theory", "theory")


def test_import_is_free():
    code = f"import sys, isometry; print([m for m in {('jax', 'numpy', *EXTRAS)!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_everything_pulls_in_no_extra_and_changes_nothing():
    """Nor scipy, but for what jax itself imports; nor JAX's configuration, the environment, or what is warned of."""
    code = f"""
import os, sys, warnings, jax
loaded = set(sys.modules)
before = dict(jax.config.values), dict(os.environ), list(warnings.filters)
import isometry
for name in isometry.__all__:
    getattr(isometry, name)
print([m for m in {("scipy", *EXTRAS)!r} if m in set(sys.modules) - loaded])
print((dict(jax.config.values), dict(os.environ), list(warnings.filters)) == before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert run.stdout.split("\n") == ["[]", "True", ""]


def test_public_names_resolve():
    assert len(set(isometry.__all__)) == len(isometry.__all__)
    for name in isometry.__all__:
        assert getattr(isometry, name) is not None
    assert dir(isometry) == isometry.__all__
    assert callable(isometry.spectrum)
    assert callable(isometry.jacobian)
    assert callable(isometry.ensemble)
    with pytest.raises(AttributeError, match="isometry attribute spektrum"):
        _ = isometry.spektrum
