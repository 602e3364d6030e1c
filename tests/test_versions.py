"""The version, supported versions and licences are the same wherever they stand."""

import re
from importlib import metadata

import pytest

import isometry
from docs import versions
from isometry.cli import _examination

ROOT = versions.ROOT
PACKAGES = sorted({row.package for row in versions.needed()})


def test_every_place_has_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {isometry.__version__}\n" in citation
    questions = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert f"Version {isometry.__version__}." in questions
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    # Above it may stand what is not yet in a version.
    assert re.findall(r"^## (\d\S+)", changes, re.M)[0] == isometry.__version__


def test_the_page_of_versions_is_that_of_the_project():
    """A dependency without a licence in docs/versions.py raises a KeyError."""
    written = versions.PAGE.read_text(encoding="utf-8")
    assert versions.text() == written, "if it is meant: python -m docs.versions"
    assert set(versions.LICENCES) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_licence_is_the_one_that_its_package_states(package):
    """By family: older metadata do not tell one BSD licence from another."""
    try:
        stated = versions.families(versions.stated(package))
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert stated, versions.stated(package)
    # Older versions name fewer of the licences of what they contain.
    assert stated <= versions.families(versions.LICENCES[package])


def test_no_dependency_of_a_user_is_under_a_copyleft_licence():
    """GPL and MPL ask something of who passes the package on; test tools may."""
    users = {"core", *_examination.EXTRAS}
    asking = {
        row.package
        for row in versions.needed()
        if row.extra in users
        and versions.families(versions.LICENCES[row.package]) & {"GPL", "MPL"}
    }
    assert asking == set()


def test_families_of_licences_are_told():
    assert versions.families("0BSD AND MIT") == {"0BSD", "MIT"}
    assert versions.families("License :: OSI Approved :: BSD License") == {"BSD"}
    lesser = "GNU Lesser General Public License v3 (LGPLv3)"
    assert versions.families(lesser) == {"GPL"}


def test_doctor_asks_for_the_packages_of_the_extras():
    """Of the extras that a user takes."""
    for extra, packages in _examination.EXTRAS.items():
        listed = [row.package for row in versions.needed() if row.extra == extra]
        assert list(packages) == listed


@pytest.mark.slow
@pytest.mark.parametrize("package", versions.NEWEST)
def test_the_newest_version_tested_is_on_the_page(package):
    """Once a newer one passes the gate, NEWEST in docs/versions.py gets its number."""
    installed = metadata.version(package)
    assert as_numbers(installed) <= as_numbers(versions.NEWEST[package])


def as_numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)]
