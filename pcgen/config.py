"""The recipe: frozen, typed tables read from TOML, and the only place defaults are written.

A recipe says everything a run depends on but the data's bytes. Precedence: default < recipe file <
`PCGEN_SET_*` environment < `--set` flag.
"""

from __future__ import annotations

import difflib
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pcgen.errors import RecipeError

# Beyond this, products leave float32.
_LARGEST = 1e30
Positive = Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Map = Annotated[list[Count], msgspec.Meta(min_length=3, max_length=3)]
Kernel = Annotated[int, msgspec.Meta(ge=1, le=15)]

ActivationName = Literal["linear", "tanh", "hard_tanh", "relu", "gelu", "sigmoid"]
LikelihoodName = Literal["gaussian", "bernoulli", "categorical"]
SolverName = Literal[
    "majorise",
    "newton",
    "errors",
    "redblack",
    "auto",
    "descent",
    "langevin",
    "momentum",
    "kinetic",
]
ProductsName = Literal["float32", "tf32", "bfloat16"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe's table: no unknown keys, no changes after reading."""


class DataTable(Table, frozen=True):
    """Which data, and how much of it is held out."""

    source: str = "digits"
    """A data set's name (`pcgen datasets`) or a path; empty where it must be given with --data."""
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Use the first so many rows only."""
    validation: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """Held-out share of the training rows if below 1, else their number. Drawn with the seed."""
    calibration: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Share or number of rows set aside before, for `pcgen ood-calibrate`: neither trained on nor
    used to choose the epoch. Drawn with the seed."""
    size: Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)] | None = None
    """Height and width that images are brought to; none keeps the source's own."""
    channels: Literal[1, 3] | None = None
    """Channels that images are brought to; none keeps the source's own."""
    threshold: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    """Pixels above it become 1, the others 0; none leaves them as they are."""
    columns: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    """A table's columns to take, by name; none takes all."""
    memory: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """MiB of decoded pictures, or of an array mapped from disk, to keep in memory."""


class PrecisionTable(Table, frozen=True):
    """Precisions (inverse variances) of the prediction errors."""

    data: Positive = 1.0
    hidden: Positive | list[Positive] = 1.0
    """One for all hidden layers, or one a layer, from the data upwards."""
    latent: NonNegative = 0.0
    """Of the Gaussian prior on the latent around zero; 0 is no prior."""
    learned: bool = False
    diagonal: bool = False
    """One precision a unit instead of one a layer."""
    rate: Positive = 1e-3
    """Step of the log precisions (Adam), when learned."""
    floor: Positive = 1e-4
    """Least variance a learned precision may reach."""
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Epochs before precisions start to learn."""


class ModelTable(Table, frozen=True):
    """The network, from the latent down to the data."""

    layers: Annotated[list[Count | Map], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [32, 128]
    )
    """From the latent to the last hidden layer: units, or [channels, height, width] of a map; the
    data's size is appended. Between two maps stands a transposed convolution, else a dense
    layer."""
    kernel: Kernel | list[Kernel] = 4
    """Side of the transposed convolutions' kernels; one for all, or one each, from the latent
    downwards."""
    skips: list[Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]] = msgspec.field(
        default_factory=list
    )
    """Skip connections [from, to]: numbers of `layers` from 0, the latent; the data is the last."""
    activation: ActivationName = "tanh"
    """Of the hidden layers' predictions."""
    output: ActivationName = "linear"
    """Of the data layer's prediction (Gaussian data only)."""
    likelihood: LikelihoodName = "gaussian"
    labels: bool = False
    """A label layer above the latent: each image's class, one-hot, clamped in training. The latent
    is then drawn to what the class predicts, with the precision `precision.latent`."""
    causes: Count = 1
    """Of the latent's prior: a mixture of so many Gaussians, learned from the chains of a sampler
    that is `persistent`. One is the fixed prior of `precision.latent`."""
    start: Literal["zero", "linear"] = "zero"
    """Where inference starts the latent: at its prior mean, or where a linear regression of earlier
    equilibria on their data puts it (linear amortisation)."""
    precision: PrecisionTable = PrecisionTable()


def units(entry: int | list[int]) -> int:
    """Return the number of units of an entry of `model.layers`."""
    return entry if isinstance(entry, int) else math.prod(entry)


class ClassifierTable(Table, frozen=True):
    """A network that tells classes apart, in the place of `model`: a baseline for scores.

    Beside this table `model` is unused, and `inference` serves the rule `pc` alone.
    """

    kind: Literal["convnet", "mlp"] = "convnet"
    channels: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [16, 32]
    )
    """Of a convnet's 3x3 convolutions; each is followed by a 2x2 maximum."""
    hidden: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [128]
    )
    """Units of the dense layers between the pixels, or the last map, and the classes."""
    activation: ActivationName = "relu"
    dropout: Fraction = 0.0
    """Share of the last hidden layer's units that a training image does without."""
    rule: Literal["backprop", "pc"] = "backprop"
    """`pc`: a discriminative predictive coding network, pixels and label clamped, learns from local
    errors; for `mlp` only."""


class SamplingTable(Table, frozen=True):
    """How the states are drawn where a sampler (`langevin`, `momentum`, `kinetic`) is the solver,
    and by `pcgen sample`."""

    step: Positive | None = None
    """In the units of the preconditioner, where none is needed; without it, in those of the
    energy's slopes."""
    friction: Positive = 1.0
    """Of `kinetic`, per unit of time; of `momentum`, 1 - its momentum."""
    temperature: Positive = 1.0
    coordinates: Literal["states", "errors"] = "states"
    """What moves; the distribution is the same. Errors mix faster where hidden precisions are
    high."""
    precondition: bool = True
    """Take steps in the metric of the curvature's bound, fixed while chains run."""
    metropolis: bool = False
    """Refuse steps so that the distribution is exact at any step (not `momentum`). Each chain's
    step is then led, in its burn-in, to `acceptance`."""
    acceptance: Fraction = 0.8
    warm: Annotated[int, msgspec.Meta(ge=0)] = 20
    """In training: steps down the energy before an image's first chain."""
    burn_in: Annotated[int, msgspec.Meta(ge=0)] = 5
    """In training: steps of a batch's chains before the first sample."""
    samples: Count = 5
    """In training: samples per image whose weight gradients are averaged."""
    thin: Count = 1
    """In training: steps between two of them."""
    relax: Annotated[int, msgspec.Meta(ge=0)] = 0
    """In training: steps down the energy, the latent held at its sample, before the weights look.
    They then learn from the mean of the hidden errors instead of a draw, which has the same
    expectation (to the order of a Laplace approximation) and at high precisions far less noise."""
    persistent: bool = False
    """An image's chain goes on in the next epoch from the latent where it ended in the last."""
    jump: Annotated[int, msgspec.Meta(ge=0)] = 5
    """In `pcgen sample`, over errors: steps between two proposals of a new latent from a mixture
    prior; 0 makes none."""


class InferenceTable(Table, frozen=True):
    """How the states reach their equilibrium."""

    solver: SolverName = "majorise"
    steps: Count = 20
    """In training: gradient evaluations per batch; of a sampler, see `sampling`."""
    test_steps: Count = 200
    """At most so many when the model is used; the tolerance stops it earlier."""
    tolerance: NonNegative = 1e-4
    """An image has converged when its energy's relative change and relative gradient are below."""
    rate: Positive = 0.05
    """Step of `descent`; the other solvers need none."""
    momentum: Fraction = 0.5
    """Of `descent`."""
    sampling: SamplingTable = SamplingTable()
    products: ProductsName = "float32"
    """What the factors of matrix products are rounded to: `tf32` on a GPU, `bfloat16` there and on
    CPUs that have it. Sums stay float32. docs/speed.md says how far the energies move."""

    @property
    def draws(self) -> bool:
        """Return whether the solver samples the states instead of finding their equilibrium."""
        return self.solver in ("langevin", "momentum", "kinetic")


class LearningTable(Table, frozen=True):
    """How the weights follow."""

    epochs: Count = 10
    batch_size: Count = 200
    optimiser: Literal["adamw", "sgd", "least-squares"] = "adamw"
    """`least-squares`: of a memory, each layer's regression, from all images as one batch. With
    more images than the last hidden layer has units, the layers above take steps of adamw."""
    rate: Positive = 1e-3
    momentum: Fraction = 0.9
    """Of `sgd`."""
    weight_decay: NonNegative = 0.0
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 50
    """Weight updates over which the rate rises to its value."""
    schedule: Literal["constant", "cosine"] = "cosine"
    causes_warmup: Annotated[int, msgspec.Meta(ge=0)] = 5
    """Epochs before the causes of a mixture prior (`model.causes`) begin to learn."""
    incremental: bool = False
    """Incremental PC: a weight step after every state step."""
    memory: bool = False
    """Memorise: every image's latent is carried from epoch to epoch and kept in the model, which
    `pcgen recall` needs."""


class Recipe(Table, frozen=True):
    """All a run depends on but the data's bytes."""

    name: str = "unnamed"
    description: str = ""
    seed: int = 0
    data: DataTable = DataTable()
    model: ModelTable = ModelTable()
    classifier: ClassifierTable | None = None
    inference: InferenceTable = InferenceTable()
    learning: LearningTable = LearningTable()


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain tables, every default written out (`None` left out)."""
    return _without_none(msgspec.to_builtins(recipe))


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML text that `from_toml` reads back to an equal recipe."""
    import tomli_w

    return tomli_w.dumps(to_dict(recipe))


def from_dict(tables: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe that plain tables describe.

    Raises:
        RecipeError: unknown keys, all at once, each with the nearest known one; or the first value
            of a wrong type or range.
    """
    if not isinstance(tables, Mapping):
        raise RecipeError(f"{where}: not a table")
    unknown = list(_unknown_keys(tables, Recipe, ""))
    if unknown:
        raise RecipeError(
            f"{where}: " + "; ".join(unknown), "Show a complete one: pcgen recipes digits"
        )
    try:
        return msgspec.convert(tables, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(
            f"{where}: {_path_of(error)}", "Show a complete one: pcgen recipes digits"
        ) from None


def from_toml(text: str, where: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes.

    Raises:
        RecipeError: text that is not TOML, or tables that are no recipe.
    """
    return from_dict(parse_toml(text, where), where)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        RecipeError: text that is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{where}: not TOML: {error}") from None


def with_settings(tables: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return the tables with `key.path=value` settings laid over them; values parse as TOML.

    A value that is not TOML is taken as a string, so that `data.source=mnist` needs no quotes.

    Raises:
        RecipeError: a setting without `=`, or a path through something that is no table.
    """
    result = _copy(tables)
    for setting in settings:
        key, equals, value = setting.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise RecipeError(
                f"--set {setting}: expected KEY=VALUE", "Example: --set learning.epochs=5"
            )
        table = result
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {setting}: {name} is a value, not a table")
        table[names[-1]] = _toml_value(value.strip())
    return result


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a recipe file.

    Raises:
        RecipeError: no such file, or no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise RecipeError(
            f"{path}: cannot be read: {reason}", "Show the recipes: pcgen recipes"
        ) from None
    return parse_toml(text, str(path))


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _copy(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in tables.items()}


def _without_none(tables: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tables.items()
        if value is not None
    }


def _unknown_keys(tables: Mapping[str, Any], kind: type[Table], prefix: str) -> Iterable[str]:
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in tables.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            elsewhere = (
                near or [full for full in _all_keys(Recipe, "") if full.endswith(f".{key}")][:1]
            )
            hint = (
                f" (did you mean {(prefix if near else '') + elsewhere[0]}?)" if elsewhere else ""
            )
            yield f"unknown key {prefix}{key}{hint}"
        elif isinstance(value, Mapping) and (inner := _table_in(known[key])):
            yield from _unknown_keys(value, inner, f"{prefix}{key}.")


def _all_keys(kind: type[Table], prefix: str) -> Iterable[str]:
    for field in msgspec.structs.fields(kind):
        yield prefix + field.name
        if inner := _table_in(field.type):
            yield from _all_keys(inner, f"{prefix}{field.name}.")


def _table_in(kind: Any) -> type[Table] | None:
    """Return the table that a key of this type holds, if it holds one."""
    kinds = (kind, *typing.get_args(kind))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Table)), None)


def _path_of(error: msgspec.ValidationError) -> str:
    reason, _, path = str(error).partition(" - at `$")
    return f"{path.rstrip('`').lstrip('.') or 'value'}: {reason[0].lower()}{reason[1:]}"
