"""The house stands: imports run only downward, and `import isometry` costs nothing."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

import isometry

ROOT = pathlib.Path(isometry.__file__).parent

# From the ground up. A room imports rooms of lower floors only, and a package itself.
FLOORS = (
    ("_internal",),
    ("activations", "data", "records", "store"),
    ("linalg",),
    ("theory",),
    ("initializers",),
    ("structure",),
    ("schemes",),
    ("networks",),
    ("measure",),
    ("methods",),
    ("_monitor_current", "_monitor_plan"),
    ("_monitor",),
    ("certificates", "comparison"),
    ("verdicts",),
    ("plots",),
    ("sweeps",),
    # The face; only the command line stands above it.
    ("__init__",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# A method that users call on a network, and whose work is done on a higher floor. It is
# imported when the method is called, so that modules still load from the ground up.
UPWARD = {("networks/_network.py", "measure"): "Network.calibrated measures"}

# Storeys of a room, from the ground up: a file imports its own storey and lower ones.
STOREYS = {"theory": ("mean_field", "laws")}

FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")

EXTRAS = (
    "cloudpickle",
    "equinox",
    "flax",
    "haiku",
    "jinja2",
    "loky",
    "matplotlib",
    "rich",
    "sklearn",
    "torch",
    "typer",
    "xarray",
    "zarr",
)


@functools.cache
def imported(path):
    """Every (module, name) that a file imports, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names += [(node.module, alias.name) for alias in node.names]
    return names


def rooms_imported(path):
    for module, name in imported(path):
        package, _, rest = module.partition(".")
        if package != "isometry":
            continue
        if rest:
            yield rest.split(".")[0]
        else:
            # `import isometry` is the face; `from isometry import x` the room x.
            yield name or "__init__"


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def may_import(room, other):
    if room == other:
        return (ROOT / room).is_dir()
    return FLOOR[other] < FLOOR[room]


@pytest.mark.parametrize("room", FLOOR)
def test_imports_run_downward(room):
    for path in FILES:
        if room_of(path) != room:
            continue
        name = path.relative_to(ROOT).as_posix()
        imports = rooms_imported(path)
        others = {other for other in imports if (name, other) not in UPWARD}
        assert sorted(other for other in others if other not in FLOOR) == [], name
        refused = sorted(other for other in others if not may_import(room, other))
        assert refused == [], name


@pytest.mark.parametrize(("room", "storeys"), STOREYS.items())
def test_storeys_import_downward(room, storeys):
    for floor, storey in enumerate(storeys):
        files = sorted((ROOT / room / storey).rglob("*.py"))
        modules = [module for path in files for module, _ in imported(path)]
        assert files
        for higher in storeys[floor + 1 :]:
            above = f"isometry.{room}.{higher}"
            assert not any(module.startswith(above) for module in modules)


@pytest.mark.parametrize(("name", "other"), UPWARD)
def test_upward_imports_wait_for_the_call(name, other):
    module = ast.parse((ROOT / name).read_text())
    at_once = [
        node.module
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
    ]
    assert "isometry.structure" in at_once
    assert not any(name.startswith(f"isometry.{other}") for name in at_once)


def test_only_public_jax_is_imported():
    for path in FILES:
        for module, name in imported(path):
            full_name = f"{module}.{name}"
            assert not full_name.startswith(("jax._", "jaxlib")), path
        assert "jax._src" not in path.read_text(), path


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in FILES}
    assert rooms == set(FLOOR) - {"__init__"}


def test_the_rule_can_fail():
    assert not may_import("activations", "linalg")
    assert not may_import("_internal", "activations")
    assert not may_import("activations", "activations")
    assert not may_import("theory", "networks")
    assert may_import("theory", "theory")


def output_of(code):
    """What a new process prints, without the hooks of this one."""
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        check=True,
    )
    return done.stdout.splitlines()


def test_import_is_free():
    modules = ("jax", "numpy", *EXTRAS)
    code = f"import sys, isometry; print([m for m in {modules} if m in sys.modules])"
    assert output_of(code) == ["[]"]


def test_importing_everything_pulls_in_no_extra_and_changes_nothing():
    """Nor scipy, but for what jax itself imports.

    A module named like a function would take its place on the face, so at the end every
    module is imported, and the functions are still there.
    """
    modules = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES
    ]
    code = f"""
import importlib, os, sys, warnings, jax
loaded = set(sys.modules)
before = dict(jax.config.values), dict(os.environ), list(warnings.filters)
import isometry
public = {{name: getattr(isometry, name) for name in isometry.__all__}}
print([m for m in {("scipy", *EXTRAS)} if m in set(sys.modules) - loaded])
after = dict(jax.config.values), dict(os.environ), list(warnings.filters)
print(before == after)
for module in {modules}:
    importlib.import_module(module.removesuffix(".__init__"))
print(public == {{name: getattr(isometry, name) for name in isometry.__all__}})
"""
    assert output_of(code) == ["[]", "True", "True"]


def test_public_names_resolve():
    for name in isometry.__all__:
        assert getattr(isometry, name) is not None
    assert dir(isometry) == sorted(set(isometry.__all__))
    with pytest.raises(AttributeError, match="isometry attribute spektrum"):
        _ = isometry.spektrum
