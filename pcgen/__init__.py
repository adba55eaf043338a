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
    from pcgen.commands.bench_classification import bench_classification as bench_classification
    from pcgen.commands.bench_memory import bench_memory as bench_memory
    from pcgen.commands.bench_ood import bench_ood as bench_ood
    from pcgen.commands.bench_reconstruction import bench_reconstruction as bench_reconstruction
    from pcgen.commands.bench_sampling import bench_sampling as bench_sampling
    from pcgen.commands.bench_self_test import bench_self_test as bench_self_test
    from pcgen.commands.bench_speed import bench_speed as bench_speed
    from pcgen.commands.bench_tables import bench_tables as bench_tables
    from pcgen.commands.check import check as check
    from pcgen.commands.classify import classify as classify
    from pcgen.commands.datasets import datasets as datasets
    from pcgen.commands.demo import demo as demo
    from pcgen.commands.doctor import doctor as doctor
    from pcgen.commands.forget import forget as forget
    from pcgen.commands.info import info as info
    from pcgen.commands.memorise import memorise as memorise
    from pcgen.commands.ood_calibrate import ood_calibrate as ood_calibrate
    from pcgen.commands.ood_score import ood_score as ood_score
    from pcgen.commands.recall import recall as recall
    from pcgen.commands.recipes import recipes as recipes
    from pcgen.commands.reconstruct import reconstruct as reconstruct
    from pcgen.commands.report import report as report
    from pcgen.commands.sample import sample as sample
    from pcgen.commands.study import study as study
    from pcgen.commands.study_depth import study_depth as study_depth
    from pcgen.commands.study_inference import study_inference as study_inference
    from pcgen.commands.train import train as train
    from pcgen.errors import CalibrationError as CalibrationError
    from pcgen.errors import CheckpointError as CheckpointError
    from pcgen.errors import DataError as DataError
    from pcgen.errors import DeviceError as DeviceError
    from pcgen.errors import DivergenceError as DivergenceError
    from pcgen.errors import PcgenError as PcgenError
    from pcgen.errors import PcgenWarning as PcgenWarning
    from pcgen.errors import RecipeError as RecipeError
    from pcgen.errors import RunError as RunError
    from pcgen.inference.infer import Equilibrium as Equilibrium
    from pcgen.inference.solvers import register_solver as register_solver
    from pcgen.interface import Step as Step
    from pcgen.interface import infer as infer
    from pcgen.interface import load as load
    from pcgen.interface import save as save
    from pcgen.interface import steps as steps
    from pcgen.learning.gradients import weight_gradients as weight_gradients
    from pcgen.model.activations import register_activation as register_activation
    from pcgen.model.energy import register_likelihood as register_likelihood
    from pcgen.model.network import Network as Network
    from pcgen.ood.estimator import PCNOutlierDetector as PCNOutlierDetector
    from pcgen.registry import register_data_set as register_data_set
    from pcgen.registry import register_score as register_score

__version__ = "0.2.0"

_COMMANDS = (
    "bench_classification",
    *("bench_memory", "bench_ood", "bench_reconstruction", "bench_sampling", "bench_self_test"),
    *("bench_speed", "bench_tables", "check", "classify", "datasets", "demo", "doctor"),
    *("forget", "info", "memorise"),
    *("ood_calibrate", "ood_score", "recall", "recipes", "reconstruct", "report", "sample"),
    *("study", "study_depth", "study_inference", "train"),
)
_HOMES = {
    "pcgen.errors": (
        *("CalibrationError", "CheckpointError", "DataError", "DeviceError"),
        *("DivergenceError", "PcgenError", "PcgenWarning", "RecipeError", "RunError"),
    ),
    "pcgen.inference.infer": ("Equilibrium",),
    "pcgen.inference.solvers": ("register_solver",),
    "pcgen.interface": ("Step", "infer", "load", "save", "steps"),
    "pcgen.learning.gradients": ("weight_gradients",),
    "pcgen.model.activations": ("register_activation",),
    "pcgen.model.energy": ("register_likelihood",),
    "pcgen.model.network": ("Network",),
    "pcgen.ood.estimator": ("PCNOutlierDetector",),
    "pcgen.registry": ("register_data_set", "register_score"),
    **{f"pcgen.commands.{name}": (name,) for name in _COMMANDS},
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
