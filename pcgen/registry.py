"""Open tables: what a recipe or a command may choose by name, and how a user adds to it.

A table knows the names that come with pcgen without importing the code behind them, so that reading
a recipe needs no torch. The module that holds this code calls `define`; a user calls one of
`pcgen.register_activation`, `register_solver`, `register_likelihood`, `register_score` and
`register_data_set`, which call `register`.

A command finds a user's own code in two places, and looks there when it meets a name that does not
come with pcgen:

* the environment variable `PCGEN_PLUGINS`: modules or `.py` files, separated by commas or by the
  system's path separator;
* the entry points of the group `pcgen.plugins` of installed packages.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pcgen.errors import RecipeError

PLUGINS = "PCGEN_PLUGINS"
_GROUP = "pcgen.plugins"


class UnknownNameError(RecipeError):
    """A name that neither pcgen nor a plugin has registered."""


class Table:
    """Values by name: those of pcgen, and those that users register."""

    def __init__(self, what: str, built_in: Iterable[str]) -> None:
        """Make a table whose built-in values come later, by `define`.

        Args:
            what: the table's kind of thing in messages, for example "activation".
        """
        self.what = what
        self.built_in = tuple(built_in)
        self._values: dict[str, Any] = {}

    def define(self, values: Mapping[str, Any]) -> None:
        """Set the values of the built-in names; only for the module of pcgen that holds them."""
        assert set(values) == set(self.built_in), self.what
        self._values |= values

    def register(self, name: str, value: Any) -> None:
        """Add a user's value, or replace an earlier one of the same user.

        Raises:
            RecipeError: the name of a built-in value, or an empty one.
        """
        if not name or name in self.built_in:
            reason = "comes with pcgen" if name else "is no name"
            raise RecipeError(f"register {self.what}: {name!r} {reason}", "Choose another name")
        self._values[name] = value

    def names(self) -> list[str]:
        """Return the known names: the built-in ones, then the registered ones in their order."""
        return list(dict.fromkeys([*self.built_in, *self._values]))

    def __contains__(self, name: object) -> bool:
        """Return whether the name is known, if need be after loading the plugins."""
        if name not in self.built_in and name not in self._values:
            load_plugins()
        return name in self.built_in or name in self._values

    def require(self, name: str, where: str = "") -> None:
        """Raise UnknownNameError unless the name is known.

        Args:
            where: the recipe's key or the option that holds the name.
        """
        if name in self:
            return
        near = difflib.get_close_matches(name, self.names(), n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        start = f"{where}: " if where else ""
        raise UnknownNameError(
            f"{start}no {self.what} is called {name!r}{guess}; known: {', '.join(self.names())}",
            f"If {name!r} is your own, name the file or module that registers it: "
            f"{PLUGINS}=my_plugin.py",
        )

    def get(self, name: str) -> Any:
        """Return the value of a name.

        Raises:
            UnknownNameError: a name that is not registered.
        """
        self.require(name)
        return self._values[name]


ACTIVATIONS = Table(
    "activation", ("linear", "tanh", "hard_tanh", "relu", "leaky_relu", "gelu", "silu", "sigmoid")
)
LIKELIHOODS = Table("likelihood", ("gaussian", "bernoulli", "categorical"))
SAMPLERS = ("langevin", "momentum", "kinetic")
"""The solvers that draw the states from exp(-E) where the others find the least E."""
SOLVERS = Table("solver", ("majorise", "newton", "exact-newton", "errors", "descent", *SAMPLERS))
SCORES = Table(
    "score",
    (
        *("pc-fisher", "free-energy", "energy-layers", "cause-layers", "cause-direction"),
        *("twin-layers", "class-energy", "class-latent", "class-layers", "delta-energy"),
        *("typicality", "latent-knn", "twin-memory", "latent-density", "twin-density"),
        *("table-energy", "table-mixture", "table-memory"),
        *("msp", "max-logit", "energy-lse", "entropy", "odin", "mahalanobis"),
        *("relative-mahalanobis", "knn", "label-energy"),
    ),
)
DATA_SETS = Table(
    "data set",
    (
        *("digits", "iris", "mnist", "fashion-mnist", "kmnist", "emnist", "kannada-mnist"),
        *("dig-mnist", "usps", "omniglot", "cifar10", "cifar100", "svhn", "tiny-imagenet"),
    ),
)

_loaded: set[str] = set()


def register_score(name: str, score: Any, fit: Any = None) -> None:
    """Make a score known by its name to `pcgen ood-calibrate` and `pcgen.ood_calibrate`.

    Args:
        name: lower-case letters, digits and hyphens.
        score: a function of the network, the images' equilibrium and the fitted tensors that
            returns one number for each image (B,), higher for more unusual images. The number of an
            image must depend on that image alone.
        fit: a function of the network and the equilibrium of known images that returns these
            tensors by name; without it there are none. The detector's file keeps them.

    Raises:
        RecipeError: the name belongs to a score of pcgen, or has other characters.

    Example:
        >>> import pcgen
        >>> pcgen.register_score(
        ...     "latent-distance",
        ...     lambda network, end, known: (end.states[-1] - known["mean"]).square().sum(1),
        ...     fit=lambda network, end: {"mean": end.states[-1].mean(0)},
        ... )
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise RecipeError(
            f"register score: {name!r} is not made of lower-case letters, digits and hyphens",
            "Choose another name",
        )
    SCORES.register(name, (score, fit))


def register_data_set(name: str, read: Any) -> None:
    """Make a data set known by its name, wherever a data set can be named.

    Args:
        read: a function that takes the split, for example "test", or "" if none is asked for. It
            returns images, or images and their labels as a tuple, or the path of the data. The
            images are an array as `pcgen.data.sources.open_data` takes it, which also resizes them.

    Example:
        >>> import numpy, pcgen
        >>> pcgen.register_data_set("noise", lambda split: numpy.random.rand(60, 8, 8))
    """
    DATA_SETS.register(name, read)


def load_plugins() -> None:
    """Import the user's modules, each once, so that they can register their names.

    Raises:
        RecipeError: a module that cannot be imported.
    """
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    listed = os.environ.get(PLUGINS, "").replace(os.pathsep, ",").split(",")
    for place in filter(None, map(str.strip, listed)):
        _load(place, f"{PLUGINS}: {place}", partial(_import, place))
    for entry_point in entry_points(group=_GROUP):
        _load(entry_point.value, f"plugin {entry_point.name}", entry_point.load)


def _load(place: str, name: str, load: Callable[[], Any]) -> None:
    if place in _loaded:
        return
    _loaded.add(place)  # before it runs: a plugin that looks a name up must not load itself again
    try:
        load()
    except Exception as error:  # a user's module may raise anything
        _loaded.discard(place)
        raise RecipeError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error


def _import(place: str) -> None:
    if not place.endswith(".py"):
        import_module(place)
        return
    path = Path(place).expanduser().resolve()
    spec = spec_from_file_location(f"pcgen_plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses look their module up while it is being executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
