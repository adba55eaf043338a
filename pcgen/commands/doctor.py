"""`pcgen.doctor`: whether pcgen works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "safetensors",
    "msgspec",
    "rich",
    "click",
)


def doctor(*, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each version, device and data set that pcgen depends on here."""
    import platform

    import torch

    from pcgen import __version__
    from pcgen.commands.datasets import datasets
    from pcgen.data import vision

    rows = [
        {"what": "pcgen", "state": "ok", "found": __version__},
        {"what": "python", "state": "ok", "found": platform.python_version()},
        *map(_package, _PACKAGES),
        {"what": "torchvision import", "state": vision.state(), "found": ""},
        {"what": "cpu threads", "state": "ok", "found": str(torch.get_num_threads())},
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


def _package(name: str) -> dict[str, Any]:
    from importlib import metadata

    try:
        return {"what": name, "state": "ok", "found": metadata.version(name)}
    except metadata.PackageNotFoundError:
        return {"what": name, "state": "missing", "found": f"pip install {name}"}
