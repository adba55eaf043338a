"""Devices and the process-wide choices that go with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pcgen.config import from_dict
from pcgen.device import choose_products
from pcgen.errors import RecipeError


@pytest.fixture(autouse=True)
def _products() -> Iterator[None]:
    yield
    choose_products("float32")


@pytest.mark.parametrize(
    ("name", "matmul", "rounds_convolutions"),
    [("float32", "highest", False), ("tf32", "high", True), ("bfloat16", "medium", True)],
)
def test_only_who_asks_gets_rounded_factors(
    name: str, matmul: str, rounds_convolutions: bool
) -> None:
    choose_products(name)
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32 == rounds_convolutions


def test_products_are_float32_unless_a_recipe_says_so() -> None:
    assert from_dict({}).inference.products == "float32"
    with pytest.raises(RecipeError, match="products"):
        from_dict({"inference": {"products": "float16"}})
