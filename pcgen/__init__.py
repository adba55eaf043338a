"""Generative predictive coding networks.

The public names load lazily: `import pcgen` imports neither torch nor numpy.

Example:
    >>> import pcgen
    >>> issubclass(pcgen.RecipeError, pcgen.PcgenError)
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcgen.api import check as check
    from pcgen.api import datasets as datasets
    from pcgen.api import demo as demo
    from pcgen.api import doctor as doctor
    from pcgen.api import info as info
    from pcgen.api import recipes as recipes
    from pcgen.api import reconstruct as reconstruct
    from pcgen.api import train as train
    from pcgen.benchmarks import bench_memory as bench_memory
    from pcgen.benchmarks import bench_ood as bench_ood
    from pcgen.benchmarks import bench_reconstruction as bench_reconstruction
    from pcgen.benchmarks import bench_sampling as bench_sampling
    from pcgen.benchmarks import bench_speed as bench_speed
    from pcgen.detector.estimator import PCNOutlierDetector as PCNOutlierDetector
    from pcgen.errors import CalibrationError as CalibrationError
    from pcgen.errors import CheckpointError as CheckpointError
    from pcgen.errors import DataError as DataError
    from pcgen.errors import DeviceError as DeviceError
    from pcgen.errors import DivergenceError as DivergenceError
    from pcgen.errors import PcgenError as PcgenError
    from pcgen.errors import RecipeError as RecipeError
    from pcgen.errors import RunError as RunError
    from pcgen.generate import sample as sample
    from pcgen.labelling import classify as classify
    from pcgen.memories import forget as forget
    from pcgen.memories import memorise as memorise
    from pcgen.memories import recall as recall
    from pcgen.ood import ood_calibrate as ood_calibrate
    from pcgen.ood import ood_score as ood_score

__version__ = "0.1.0"

_HOMES = {
    "pcgen.api": (
        "check",
        "datasets",
        "demo",
        "doctor",
        "info",
        "recipes",
        "reconstruct",
        "train",
    ),
    "pcgen.detector.estimator": ("PCNOutlierDetector",),
    "pcgen.benchmarks": (
        "bench_memory",
        "bench_ood",
        "bench_reconstruction",
        "bench_sampling",
        "bench_speed",
    ),
    "pcgen.labelling": ("classify",),
    "pcgen.errors": (
        "CalibrationError",
        "CheckpointError",
        "DataError",
        "DeviceError",
        "DivergenceError",
        "PcgenError",
        "RecipeError",
        "RunError",
    ),
    "pcgen.generate": ("sample",),
    "pcgen.memories": ("forget", "memorise", "recall"),
    "pcgen.ood": ("ood_calibrate", "ood_score"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
