"""`pcgen.doctor`: whether pcgen works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PACKAGES = (
    *("torch", "torchvision", "numpy", "scikit-learn", "safetensors", "msgspec", "rich"),
    "click",
)


def doctor(*, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each version, device and data set that pcgen depends on here.

    Example:
        >>> import pcgen
        >>> pcgen.doctor()[0]["what"]
        'pcgen'
    """
    import platform

    import torch

    from pcgen import __version__
    from pcgen.commands.datasets import datasets
    from pcgen.commands.session import products_setting
    from pcgen.data import vision
    from pcgen.device import processor

    rows = [
        {"what": "pcgen", "state": "ok", "found": __version__},
        {"what": "python", "state": "ok", "found": platform.python_version()},
        *map(_package, _PACKAGES),
        {"what": "torchvision import", "state": vision.state(), "found": ""},
        {"what": "processor", "state": "ok", "found": processor()},
        {"what": "cpu threads", "state": "ok", "found": str(torch.get_num_threads())},
        _products(products_setting()),
    ]
    for i in range(torch.cuda.device_count()):
        rows.append({"what": f"cuda:{i}", "state": "ok", "found": torch.cuda.get_device_name(i)})
    if not torch.cuda.is_available():
        rows.append({"what": "cuda", "state": "none", "found": "training runs on the CPU"})
    rows += [
        {"what": f"data: {row['name']}", "state": "", "found": row["where"]}
        for row in datasets(data_dir=data_dir)
    ]
    return rows


def _products(setting: str) -> dict[str, Any]:
    """Return the row of the operation that large matrix products use, and each one's rate.

    Raises:
        DeviceError: an operation that is asked for does not exist here.
    """
    from pcgen.model import products

    rates = products.rates()
    found = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    side = products.SIDE
    return {
        "what": "matrix products",
        "state": products.resolve(setting),
        "found": f"{found} ({side} x {side} x {side}, one thread)",
    }


def _package(name: str) -> dict[str, Any]:
    from importlib import metadata

    try:
        return {"what": name, "state": "ok", "found": metadata.version(name)}
    except metadata.PackageNotFoundError:
        return {"what": name, "state": "missing", "found": f"pip install {name}"}
