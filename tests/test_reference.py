"""The reference pages are those that the code would write."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "reference" / "generate.py"
spec = spec_from_file_location("reference", SCRIPT)
assert spec is not None
assert spec.loader is not None
reference = module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_reference_page_is_as_new_and_every_option_and_key_has_a_sentence(name: str) -> None:
    page = SCRIPT.with_name(name)
    assert page.read_text() == reference.PAGES[name](), f"renew it: python {SCRIPT}"
