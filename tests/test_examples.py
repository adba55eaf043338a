"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import pcgen
from pcgen import registry

NAMES = [name for name in pcgen.__all__ if name != "__version__"]


@pytest.fixture(autouse=True)
def _forget_registered_names() -> Iterator[None]:
    yield
    for table in vars(registry).values():
        if isinstance(table, registry.Table):
            for name in {*table.names()} - {*table.built_in}:
                del table._values[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(
        getattr(pcgen, name).__doc__ or "", {}, name, None, None
    )
    assert len(example.examples) > 1, "has no example"
    assert "+SKIP" not in example.docstring, "is not run"
    said: list[str] = []
    with warnings.catch_warnings():
        failed, _ = doctest.DocTestRunner().run(example, out=said.append)
    assert not failed, "".join(said)
