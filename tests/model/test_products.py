"""Matrix products: every operation gives torch's own numbers, and serves only where it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.errors import DeviceError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model import products
from pcgen.model.layers import gram
from tests import oracle

needs_onednn = pytest.mark.skipif(not products.exists(), reason="needs oneDNN in torch")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with products.restored_products():
        yield
    products._operation.cache_clear()
    products._rates.cache_clear()


def draw(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


X, Y, WEIGHT = draw(200, 96), draw(200, 120), draw(96, 120)
PRODUCTS: dict[str, Callable[[], Tensor]] = {
    "linear": lambda: products.linear(Y, WEIGHT),
    "linear with a bias": lambda: products.linear(Y, WEIGHT, X[0]),
    "linear, weight transposed": lambda: products.linear(X, WEIGHT.T.contiguous()),
    "product": lambda: products.product(X, WEIGHT),
    "transposed product": lambda: products.transposed_product(X, Y),
    "minus product": lambda: products.minus_product(Y, X, WEIGHT),
    "rows with gaps": lambda: products.linear(draw(400, 120)[::2], WEIGHT),
    "gram": lambda: gram(draw(200, 300), torch.empty(300, 300)),
}


@needs_onednn
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_of_onednn_is_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = PRODUCTS[name]()
    products.use("onednn")
    calls: list[Any] = []
    fast = products._fast

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return fast(*arguments)

    monkeypatch.setattr(products, "_fast", counted)
    torch.testing.assert_close(PRODUCTS[name](), expected, rtol=1e-5, atol=1e-4)
    assert calls


SMALL = draw(40, 96)
PLAIN: dict[str, Callable[[], Tensor]] = {
    "small": lambda: products.product(SMALL, WEIGHT),
    "empty": lambda: products.product(SMALL[:0], WEIGHT),
    "float64": lambda: products.product(X.double(), WEIGHT.double()),
    "a weight with gaps between its rows": lambda: products.product(X, draw(96, 240)[:, ::2]),
    "a recorded gradient": lambda: products.product(X, WEIGHT.clone().requires_grad_()),
    "a recorded gradient of the states": lambda: products.product(
        X.clone().requires_grad_(), WEIGHT
    ),
    "chosen torch": lambda: products.product(X, WEIGHT),
}


@needs_onednn
@pytest.mark.parametrize("name", PLAIN)
def test_other_products_stay_with_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Tensor:
        raise AssertionError

    products.use("torch" if name == "chosen torch" else "onednn")
    monkeypatch.setattr(products, "_fast", refuse)
    with torch.enable_grad():
        assert len(PLAIN[name]()) in (0, 40, 200)


def _raises(*arguments: Any) -> Tensor:
    raise RuntimeError("could not create a primitive")


def _differs(x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    return torch.addmm(bias, x, weight.T) * (1 + 1e-3)


def _is_not_a_number(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x @ weight.T * torch.nan


@pytest.mark.parametrize(
    "operations",
    [
        SimpleNamespace(),
        SimpleNamespace(_linear_pointwise=_raises),
        SimpleNamespace(_linear_pointwise=_differs),
        SimpleNamespace(_linear_pointwise=_is_not_a_number),
    ],
    ids=["missing", "raises", "differs", "nan"],
)
def test_without_a_sound_operation_torch_serves(
    operations: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", operations)
    products._operation.cache_clear()
    products._rates.cache_clear()
    assert not products.exists()
    assert list(products.rates()) == ["torch"]
    assert products.resolve("auto") == products.resolve("auto", "onednn") == "torch"
    with pytest.raises(DeviceError, match="PCGEN_PRODUCTS=onednn: not in torch"):
        products.use("onednn")
    assert products.chosen() == "torch"


@needs_onednn
@pytest.mark.parametrize(("rate", "name"), [(0.5, "torch"), (1.1, "torch"), (1.3, "onednn")])
def test_onednn_is_chosen_if_it_is_clearly_faster(
    rate: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "rates", lambda: {"torch": 1.0, "onednn": rate})
    assert products.resolve("auto") == name
    assert products.resolve("auto", "torch") == products.resolve("torch") == "torch"
    assert products.resolve("auto", "onednn") == products.resolve("onednn") == "onednn"


def test_every_rate_is_positive() -> None:
    assert all(rate > 0 for rate in products.rates().values())


@needs_onednn
@pytest.mark.parametrize("solver", ["majorise", "newton", "errors", "descent"])
def test_solvers_find_the_same_states_with_onednn(solver: str) -> None:
    network = oracle.network(layers=(40, 96), shape=120, latent=0.3).to("cpu", torch.float32)
    data_BD = oracle.data(network, 300).float()
    data_BD[7, 3] = torch.nan
    table = InferenceTable(solver=solver, rate=0.05)
    ends = []
    for name in ("torch", "onednn"):
        products.use(name)
        with torch.no_grad():
            ends.append(infer(prepare(network, table), data_BD, steps=10))
    torch.testing.assert_close(
        ends[1].energy_B, ends[0].energy_B, equal_nan=True, rtol=5e-5, atol=0
    )
    assert ends[1].energy_B.isnan().sum() == 1
