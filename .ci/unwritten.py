"""Print the list of files that do not yet keep the rules of reading."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
print(*SETTINGS["tool"]["ruff"]["extend-exclude"], sep="\n")
