"""The licences of what is installed with coinseg: none reaches further than itself, and the list is what packages say."""

from __future__ import annotations

import pytest

from licences import DOCUMENT, HINT, STRONG, licence_of, row, runtime


def test_no_licence_reaches_further() -> None:
    licences = {name: licence_of(package) for name, package in runtime().items()}
    assert {"torch", "numpy", "pydicom", "nibabel"} <= licences.keys()
    assert {name: licence for name, licence in licences.items() if STRONG.search(licence)} == {}


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "GNU General Public License v3", "AGPL-3.0", "GNU Affero General Public License", "CC-BY-NC-4.0"]
)
def test_licences_that_are_found(licence: str) -> None:
    assert STRONG.search(licence)
    assert not STRONG.search("LGPL-2.1 OR MIT OR GNU Lesser General Public License")


def test_the_list_is_what_the_packages_say() -> None:
    said = DOCUMENT.read_text(encoding="utf-8")
    assert [line for name, package in runtime().items() if (line := row(name, licence_of(package))) not in said] == [], HINT
