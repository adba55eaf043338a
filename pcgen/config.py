"""The recipe: typed tables read from TOML. This is the only place where defaults are written.

A recipe holds every setting of a run. Later sources override earlier ones: defaults, the recipe
file, environment variables `PCGEN_SET_*`, the flag `--set`.

The text below each key is its entry in the reference of recipes.
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

from pcgen import registry
from pcgen.errors import RecipeError

# Larger numbers overflow float32 once they are squared or multiplied.
_LARGEST = 1e30
Positive = Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Map = Annotated[list[Count], msgspec.Meta(min_length=3, max_length=3)]
Kernel = Annotated[int, msgspec.Meta(ge=1, le=15)]

# Names that users can add to: `from_dict` looks them up in the table that `extra` holds.
ActivationName = Annotated[str, msgspec.Meta(extra={"names": registry.ACTIVATIONS})]
LikelihoodName = Annotated[str, msgspec.Meta(extra={"names": registry.LIKELIHOODS})]
SolverName = Annotated[str, msgspec.Meta(extra={"names": registry.SOLVERS})]
SolverNameOrEmpty = Annotated[str, msgspec.Meta(extra={"names": registry.SOLVERS, "empty": True})]
ProductsName = Literal["float32", "tf32", "bfloat16"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of a recipe. It refuses unknown keys and cannot be changed."""


ARRAY = "array"
"""The `data.source` of a run on an array; the array itself is given in Python."""


class DataTable(Table, frozen=True):
    """The data, and which rows are held out. A row is one image, or one line of a table."""

    source: str = "digits"
    """The name of a data set (`pcgen datasets` lists them) or a path. If it is empty, the command
    needs `--data`."""
    limit: Count | None = None
    """Use only this many rows: the first ones. Of pictures in a folder for each class, they are the
    first of every class, as many of each; but a memory stores the first of the whole order. Without
    it all rows are used."""
    validation: NonNegative = 0.1
    """The rows that choose the best epoch and are never trained on: a share of the training rows
    if the value is below 1, else their number. The seed draws them."""
    calibration: NonNegative = 0.0
    """The rows kept aside for `pcgen ood-calibrate`: a share or a number, as for `validation`. They
    are neither trained on nor used to choose the epoch. The seed draws them."""
    size: Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)] | None = None
    """The height and width to which every image is resized. Without it images keep their size."""
    channels: Literal[1, 3] | None = None
    """The number of channels to which every image is converted: 1 is grey, 3 is colour. Without it
    images keep their own."""
    range: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)] | None = None
    """The numbers in the files that are black and white, as [0, 16] or [0, 4095]; they become 0 and
    1. Without it white is 255 or 65535 (8 or 16 bits), or 1. Data sets known by name have their
    own."""
    threshold: Fraction | None = None
    """Pixels above this value become 1 and all others 0. Without it pixels keep their values."""
    columns: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    """The names of the table's columns to use. Without it all columns are used."""
    labels: str | None = None
    """The name of the column, or of the array in a `.npz` file, that holds the labels. If it is
    empty, none does. Without it, a column named `label`, `labels`, `class` or `target` holds
    them."""
    memory: CountOrZero = 1024
    """How many MiB of decoded images, or of an array read from disk, may stay in memory."""


class PrecisionTable(Table, frozen=True):
    """Precisions: the inverse variances that weight the prediction errors in the energy."""

    data: Positive = 1.0
    """The precision of the data layer's errors."""
    hidden: Positive | list[Positive] = 1.0
    """The precision of the hidden layers' errors: one for all, or a list from the data upwards."""
    upward: Positive = 100.0
    """The precision of the errors of the hidden units of `model.upward` in training."""
    latent: NonNegative = 0.0
    """The precision of the latent's Gaussian prior around zero. With 0 there is no prior, and the
    model cannot sample."""
    learned: bool = False
    """Learn the precisions with the weights."""
    diagonal: bool = False
    """Give every unit a precision of its own, instead of one to each layer."""
    rate: Positive = 1e-3
    """The learning rate of the logarithms of learned precisions (Adam)."""
    floor: Positive = 1e-4
    """The smallest variance that a learned precision may reach."""
    warmup: CountOrZero = 1
    """The number of epochs before precisions begin to learn."""


class ModelTable(Table, frozen=True):
    """The network, from the latent (the uppermost hidden layer) down to the data."""

    layers: Annotated[list[Count | Map], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [32, 128]
    )
    """The layers from the latent to the last hidden one: a number of units each, or
    [channels, height, width] for a map of features. The data layer follows by itself. Two
    neighbouring maps are joined by a transposed convolution, all other layers by a dense map."""
    kernel: Kernel | list[Kernel] = 4
    """The side of the transposed convolutions' kernels: one for all, or a list from the latent
    downwards."""
    skips: list[Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]] = msgspec.field(
        default_factory=list
    )
    """Skip connections, each a pair [from, to] of positions in `layers`. Position 0 is the latent,
    and the position after the last layer is the data."""
    activation: ActivationName = "tanh"
    """The activation of the hidden layers' predictions."""
    output: ActivationName = "linear"
    """The activation of the data layer's prediction, where the likelihood is `gaussian`."""
    likelihood: LikelihoodName = "gaussian"
    """How the data vary around their prediction: `gaussian` for grey values and tables, `bernoulli`
    for pixels of 0 and 1, `categorical` for one class out of many."""
    labels: bool = False
    """Put a layer of labels above the latent. In training it is clamped to each image's class,
    and the class predicts the latent with the precision `precision.latent`."""
    upward: list[Count] = msgspec.field(default_factory=list)
    """The units of the hidden layers of a chain of predictions upwards, from the data to the latent
    and the label; the data need labels. If it is empty, all predictions go downwards."""
    causes: Count = 1
    """The number of Gaussians in the latent's prior. More than one make a mixture, which is learned
    and needs a sampler with `inference.sampling.persistent`."""
    weights: Literal["random", "principal"] = "random"
    """Where the weights begin: `random`, or `principal`: the skip connection from the latent to the
    data at the principal components of the training data, the layer above the data at 0, and a
    linear start of the latent at the scores of unit variance. Before it learns, the network then
    reconstructs as principal component analysis does."""
    start: Literal["zero", "linear"] = "zero"
    """Where inference starts the latent: at `zero`, or at a `linear` regression on the data that
    is learned from earlier equilibria."""
    precision: PrecisionTable = PrecisionTable()
    """The precisions of the prediction errors."""


def units(entry: int | list[int]) -> int:
    """Return the number of units of an entry of `model.layers`."""
    return entry if isinstance(entry, int) else math.prod(entry)


class ClassifierTable(Table, frozen=True):
    """A network that tells classes apart, by predictive coding or by backprop as a baseline.

    It takes the place of `model`. With this table `model` is not used, and `inference` is used by
    the rule `pc` only.
    """

    kind: Literal["convnet", "mlp"] = "convnet"
    """The architecture: convolutions and dense layers (`convnet`), or dense layers only (`mlp`)."""
    channels: Annotated[list[Count], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [16, 32]
    )
    """The channels of a convnet's 3x3 convolutions."""
    pool: Count | list[Count] = 2
    """The side of the windows of max pooling after each convolution: one for all, or a list. 1 is
    no pooling."""
    stride: Count | list[Count] = 1
    """The stride of each convolution: one for all, or a list."""
    padding: CountOrZero | list[CountOrZero] = 1
    """The zeros at each border of a convolution's map: one for all, or a list."""
    skips: list[Annotated[list[CountOrZero], msgspec.Meta(min_length=2, max_length=2)]] = (
        msgspec.field(default_factory=list)
    )
    """Skip connections of a convnet, each a pair [from, to] of layers: 0 is the image, 1 the first
    convolution. The map of the first is added to the drive of the second by a learned 1x1
    convolution, which begins as the identity where the channels are equally many (residual
    blocks). The layer after the last convolution and all of `hidden` is the classes: a skip
    connection leads to them by a dense map."""
    hidden: list[Count] = msgspec.field(default_factory=lambda: [128])
    """The units of the dense hidden layers, which come before the classes."""
    activation: ActivationName = "relu"
    """The activation of all hidden layers."""
    inputs: Literal["pixels", "centred"] = "pixels"
    """What the first layer sees: the `pixels` between 0 and 1, or `centred` ones between -1 and
    1."""
    weights: Literal["normal", "uniform"] = "normal"
    """Where the weights begin: at `normal` random numbers of variance 2 / inputs, with biases of 0,
    or at `uniform` ones, biases too, up to 1 / sqrt(inputs). Squared errors learn faster from the
    smaller, uniform ones."""
    likelihood: Literal["categorical", "gaussian"] = "categorical"
    """The energy of the label layer: the cross entropy of the class (`categorical`), or the squared
    error of a one-hot label (`gaussian`)."""
    dropout: Fraction = 0.0
    """The share of the last hidden layer's units that is set to 0 for each training image, with
    `backprop`."""
    rule: Literal["backprop", "pc"] = "backprop"
    """How the weights learn: by `backprop`, or with `pc` from local errors while pixels and label
    are clamped (discriminative predictive coding). `learning.incremental` updates them after every
    inference step."""
    precision: Positive = 1.0
    """With `pc`: the precision of the hidden layers' errors. The label layer's is 1."""
    start: Literal["forward", "zero", "normal"] = "forward"
    """With `pc`: where inference starts the hidden states: at the `forward` prediction, at `zero`,
    or at random numbers of standard deviation 0.1 (`normal`)."""
    nudging: Literal["none", "positive", "negative", "centred"] = "none"
    """With `pc`: clamp the label layer to the label y (`none`), or to u - b (u - y), which nudges
    its prediction u. b is the strength: `positive`; `negative`, which is away from the label, and
    the weights then move against their gradient; or both in turn, epoch by epoch (`centred`)."""
    strength: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """The strength of the nudging in the first epoch. 1 and `positive` is no nudging."""
    growth: NonNegative = 0.0
    """How much the strength grows in each epoch, up to 1."""


class SamplingTable(Table, frozen=True):
    """How states are drawn: in training, if the solver is a sampler (`langevin`, `momentum` or
    `kinetic`), and by `pcgen sample`."""

    step: Positive | None = None
    """The sampler's step size, in units of the preconditioner. Without it each sampler has its own
    default. It must be set where `precondition` is false, and is then in units of the states."""
    friction: Positive = 1.0
    """The friction of `kinetic`, per unit of time. For `momentum` it is 1 minus the momentum."""
    temperature: Positive = 1.0
    """The temperature T of the distribution exp(-E / T) that is sampled."""
    coordinates: Literal["states", "errors"] = "states"
    """The variables that move: the states or the prediction errors. The distribution is the same;
    errors mix faster where hidden precisions are high."""
    precondition: bool = True
    """Scale the steps by a bound of the energy's curvature, which stays fixed while chains run."""
    metropolis: bool = False
    """Accept or reject each step (Metropolis test), which makes the distribution exact for any step
    size. Each chain then adapts its step during burn-in until it reaches `acceptance`. Not for
    `momentum`."""
    acceptance: Fraction = 0.8
    """The share of accepted steps to which the step size adapts."""
    warm: CountOrZero = 20
    """In training: inference steps before an image's first chain begins."""
    burn_in: CountOrZero = 5
    """In training: steps of the chains before the first sample of a batch."""
    samples: Count = 5
    """In training: samples of each image over which the weight gradient is averaged."""
    thin: Count = 1
    """In training: steps between two samples."""
    relax: CountOrZero = 0
    """In training: inference steps, with the latent held at its sample, before the weight gradient
    is taken. The gradient then uses the mean of the hidden errors instead of one draw: nearly the
    same expectation (up to a Laplace approximation), and far less noise at high precisions."""
    persistent: bool = False
    """Continue each image's chain in the next epoch from the latent where it ended."""
    jump: CountOrZero = 1
    """In `pcgen sample --given`: steps between two jumps. A jump chooses among the chain's place
    and draws from Gaussians at the modes that inference finds, so the distribution stays exact.
    With 0 there are none. Free chains have none either."""


class InferenceTable(Table, frozen=True):
    """How the states reach their equilibrium, the states of least energy."""

    solver: SolverName = "majorise"
    """The rule that moves the states. `majorise`, `newton`, `exact-newton`, `errors` and `descent`
    find the states of least energy; `langevin`, `momentum` and `kinetic` are samplers."""
    test_solver: SolverNameOrEmpty = ""
    """The rule when a trained model is used or validated. If it is empty, that is `solver`; where
    `solver` is a sampler, `errors` or `majorise`, after `sampling.coordinates`; and for
    `pcgen recall`, `errors`."""
    steps: Count = 20
    """In training: gradient evaluations per batch. A sampler uses the `sampling` table instead."""
    schedule: list[tuple[Count | Fraction, Count]] = msgspec.field(default_factory=list)
    """How `steps` changes in training: pairs [first, steps]. A first below 1 is a share of the run:
    [[0.6, 16], [0.8, 32]] takes 16 steps in the epochs after 60 % of the run, and 32 in those after
    80 %. A whole first is an epoch: [[1, 5], [10, 20]]. If it is empty, and before its first epoch,
    `steps` holds."""
    starts: Annotated[list[Share], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [1.0]
    )
    """In training with a linear start: shares of it, from 0 to 1. Each image's latent begins at the
    share with the least energy. With [0, 0.5, 1], a start that is too long does not keep itself
    alive: the regression learns from where inference ends, which is near where it began."""
    keep_latents: bool = False
    """In training: keep where each image's latent ended (before the first epoch: the prior's mean),
    as one more start in the next epoch. The start of least energy is taken. It needs memory for a
    latent of every image."""
    test_steps: Count = 200
    """The most gradient evaluations when a trained model is used. The tolerance may stop it
    earlier."""
    tolerance: NonNegative = 1e-4
    """An image has converged when its energy is certainly within this share of a stationary
    point's."""
    rate: Positive = 0.05
    """The step size of `descent`. The other solvers need none."""
    momentum: Fraction = 0.5
    """The momentum of `descent`."""
    sampling: SamplingTable = SamplingTable()
    """The settings of the samplers."""
    products: ProductsName = "float32"
    """The precision of the factors in matrix products. `tf32` (on a GPU) and `bfloat16` (on a GPU
    and on CPUs that support it) are faster and less exact; sums stay float32."""

    @property
    def draws(self) -> bool:
        """Return whether the solver samples the states instead of finding their equilibrium."""
        return self.solver in registry.SAMPLERS

    def for_use(self, default: str = "") -> InferenceTable:
        """Return the settings for using a trained model, with `test_solver` as the solver.

        Args:
            default: the solver where the recipe names none for this; `solver` if not given.
        """
        return msgspec.structs.replace(self, solver=self.test_solver or default or self.solver)


class LearningTable(Table, frozen=True):
    """How the weights learn."""

    epochs: Count = 10
    """The number of passes over the training rows."""
    batch_size: Count = 200
    """The number of rows in a batch. Each batch makes one update of the weights."""
    optimiser: Literal["adamw", "sgd", "least-squares"] = "adamw"
    """The rule that turns gradients into weight updates. `least-squares` is for a memory: it solves
    each layer's regression on all rows at once. With more rows than units in the last hidden
    layer, the layers above it use `adamw`."""
    rate: Positive = 1e-3
    """The learning rate of the weights."""
    momentum: Fraction = 0.9
    """The momentum of `sgd`."""
    weight_decay: NonNegative = 0.0
    """How strongly weights are drawn to zero: the weight decay of the optimiser."""
    max_norm: NonNegative = 0.0
    """The largest norm of each unit's weights to the layer below, as a multiple of that of random
    starting weights, for `adamw` and `sgd`; 0 sets no limit. Without a limit a network can lower
    its energy by larger weights and smaller states. Errors of its hidden layers then cost next to
    nothing, and the images that the latent alone predicts get worse."""
    warmup: CountOrZero = 50
    """The number of updates over which the learning rate rises from 0 to `rate`."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """The learning rate after the warm-up: `constant`, or falling to 0 along a `cosine`."""
    causes_warmup: CountOrZero = 5
    """The number of epochs before a mixture prior (`model.causes`) begins to learn."""
    mirror: bool = False
    """Mirror half of the images left to right, another random half in each epoch. It is for
    pictures whose mirror image is as likely, and doubles what a small data set shows. Not with
    latents or chains that are kept from epoch to epoch."""
    shift: CountOrZero = 0
    """Shift each image at random by up to this many pixels along both axes, anew in each epoch;
    black pixels come in at the border. Not with latents or chains that are kept from epoch to
    epoch."""
    downward: str = ""
    """The name or path of a trained model whose downward chain is taken over and stays as it is, so
    that the upward chain (`model.upward`) alone learns. If it is empty, both chains learn."""
    hide: Fraction = 0.0
    """Which share of the data, at most, the upward chain (`model.upward`) does not see in training:
    a random share up to this of every other image. The chain then also works with hidden pixels."""
    incremental: bool = False
    """Update the weights after every inference step (incremental predictive coding), not once per
    batch."""
    memory: bool = False
    """Memorise the rows: carry every image's latent from epoch to epoch and store it in the model.
    `pcgen recall` needs it."""
    stored_type: Literal["float32", "float16"] = "float32"
    """The type of a memory's weights and latents in its file. `float16` halves the file; all that
    is computed stays float32. `pcgen memorise` and `forget` keep the type."""


FromData = Literal[
    "data.size",
    "data.columns",
    "data.validation",
    "data.calibration",
    "model.layers",
    "model.likelihood",
    "model.causes",
    "model.precision.data",
    "model.precision.hidden",
    "learning.epochs",
    "learning.batch_size",
    "learning.rate",
    "learning.causes_warmup",
]


class Recipe(Table, frozen=True):
    """Everything that determines a run, except the data themselves."""

    name: str = "unnamed"
    """The recipe's name."""
    description: str = ""
    """One sentence that says what the recipe is for."""
    seed: int = 0
    """The number that all random choices follow from: held-out rows, weights, order, noise."""
    from_data: list[FromData] = msgspec.field(default_factory=list)
    """The keys whose values follow from the data, by the rules in the guides to sampling and to
    unusual data. `--set` of such a key overrides its rule. A run's own recipe has the values."""
    data: DataTable = DataTable()
    """The data, and which rows are held out."""
    model: ModelTable = ModelTable()
    """The network."""
    classifier: ClassifierTable | None = None
    """A network that tells classes apart, in the place of `model`."""
    inference: InferenceTable = InferenceTable()
    """How the states reach their equilibrium."""
    learning: LearningTable = LearningTable()
    """How the weights learn."""

    def steps_in(self, epoch: int) -> int:
        """Return the gradient evaluations per batch of an epoch in training, counted from 1."""
        steps = self.inference.steps
        for first, scheduled in self.inference.schedule:
            # A share times the epochs that is whole but for rounding is whole.
            share = 1 + math.ceil(first * self.learning.epochs - 1e-9)
            if epoch >= (share if first < 1 else first):
                steps = scheduled
        return steps


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain tables with every default, without the keys that are `None`."""
    return _without_none(msgspec.to_builtins(recipe))


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML text that `from_toml` reads back to an equal recipe."""
    import tomli_w

    return tomli_w.dumps(to_dict(recipe))


def from_dict(tables: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Return the recipe that plain tables describe.

    Raises:
        RecipeError: unknown keys (the message names them all, with suggestions); or a value of a
            wrong type or range.
        UnknownNameError: a name that is in no open table.
    """
    if not isinstance(tables, Mapping):
        raise RecipeError(f"{where}: not a table")
    unknown = list(_unknown_keys(tables, Recipe, ""))
    if unknown:
        raise RecipeError(
            f"{where}: " + "; ".join(unknown), "Show a complete one: pcgen recipes digits"
        )
    try:
        recipe = msgspec.convert(tables, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(
            f"{where}: {_path_of(error)}", "Show a complete one: pcgen recipes digits"
        ) from None
    _require_names(recipe, f"{where}: ")
    firsts = [first for first, _ in recipe.inference.schedule]
    if firsts != sorted(set(firsts)) or len({first < 1 for first in firsts}) > 1:
        raise RecipeError(
            f"{where}: inference.schedule: {', '.join(map(str, firsts))} are neither rising shares "
            "of the run nor rising epochs",
            "Example: --set inference.schedule=[[0.5,8],[0.9,20]]",
        )
    if recipe.inference.starts != [1.0] and recipe.model.start != "linear":
        raise RecipeError(
            f"{where}: inference.starts: needs a linear start", "Use --set model.start=linear"
        )
    if recipe.classifier is not None:
        _require_classifier(recipe.classifier, recipe, where)
    if recipe.learning.downward and not recipe.model.upward:
        raise RecipeError(
            f"{where}: learning.downward: without an upward chain nothing is left to learn",
            "Use --set model.upward=[400,400]",
        )
    if recipe.learning.memory and recipe.model.upward:
        raise RecipeError(
            f"{where}: learning.memory: a memory has no predictions upwards (model.upward)",
            "Use --set model.upward=[]",
        )
    return recipe


# Solvers that know pooled convolutions, which all convnets may have.
_OF_CONVNETS = ("descent", "majorise")


def _require_classifier(table: ClassifierTable, recipe: Recipe, where: str) -> None:
    """Raise RecipeError unless the settings of a classifier go together."""
    reason, advice, solver = "", "Use --set classifier.rule=pc", recipe.inference.solver
    inferring = {
        "classifier.nudging": table.nudging != "none",
        "classifier.start": table.start != "forward",
        "learning.incremental": recipe.learning.incremental,
    }
    if table.rule == "backprop" and any(inferring.values()):
        key = next(key for key, is_set in inferring.items() if is_set)
        reason = f"{key}: backprop has no inference"
    elif table.rule == "pc" and table.kind == "mlp" and not table.hidden:
        reason = "classifier.hidden: without hidden layers there are no states to infer"
        advice = "Example: --set classifier.hidden=[128]"
    elif table.rule == "pc" and table.kind == "convnet" and solver not in _OF_CONVNETS:
        reason = f"inference.solver: {solver} does not know convolutions with pooling"
        advice = f"Use --set inference.solver={_OF_CONVNETS[0]} or {_OF_CONVNETS[1]}"
    elif table.likelihood == "categorical" and table.nudging in ("negative", "centred"):
        reason = f"classifier.nudging: {table.nudging} makes negative probabilities of the classes"
        advice = "Use --set classifier.likelihood=gaussian, or classifier.nudging=positive"
    if reason:
        raise RecipeError(f"{where}: {reason}", advice)


def from_toml(text: str, where: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes.

    Raises:
        RecipeError: text that is not TOML, or tables that are not a recipe.
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
    """Return the tables, changed by settings of the form `key.path=value`. Values are TOML.

    A value that is not TOML is a string, so that `data.source=mnist` needs no quotes.

    Raises:
        RecipeError: a setting without `=`, or a path that leads through a plain value.
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
        RecipeError: a file that does not exist, cannot be read, or is not TOML.
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


def _require_names(table: Table, prefix: str) -> None:
    """Raise UnknownNameError unless every name of an open table is registered."""
    for field in msgspec.structs.fields(table):
        value, where = getattr(table, field.name), prefix + field.name
        if isinstance(value, Table):
            _require_names(value, f"{where}.")
        for meta in getattr(field.type, "__metadata__", ()):
            if meta.extra is not None and not (value == "" and meta.extra.get("empty")):
                meta.extra["names"].require(value, where)


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
