"""The picture of docs/report.md: `python -m docs.screenshot` makes it.

It needs the extras `report` and `browser`, scikit-learn for the digits, and Chromium.
"""

import os
import pathlib
import shutil
import sys
import tempfile

import jax
from playwright.sync_api import sync_playwright

import isometry
from isometry import data, networks

PICTURE = pathlib.Path(__file__).parent / "screenshots" / "report.png"

# The width at which all columns are seen, and the height of what stands first.
_WIDTH, _HEIGHT = 1000, 1060

_SCHEMES = ["orthogonal", "gaussian", "zer_o"]


def reports() -> isometry.Reports:
    """Audit three schemes of a perceptron on the digits."""
    xs, targets = data.digits(pooled=True)
    net = networks.mlp([16, 64, 64, 64, 64, 10], "tanh")
    found = isometry.audit(
        net.with_schemes(_SCHEMES),
        jax.random.split(jax.random.key(0), 8),
        xs,
        targets=targets,
        progress=lambda part: print(part, file=sys.stderr),
    )
    assert isinstance(found, isometry.Reports), "of a mapping"
    return found


def main() -> None:
    """Write the report to a file, open it in Chromium, and keep what is seen."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    # Chromium refuses to run as root inside of its sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = pathlib.Path(folder) / "report.html"
        reports().to_html(path)
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(
            viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light"
        )
        page.goto(path.as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
