"""What a user can do wrong, one class for each kind.

A message names the thing, the reason and (as `hint`) the command that helps. Our own mistakes are
`assert`s: they show a traceback, a `PcgenError` never does.
"""

from __future__ import annotations


class PcgenError(Exception):
    """The root of every error a user can cause.

    Attributes:
        hint: what to do about it, usually a command; may be empty.
        kind: the machine-readable name, given as `error.kind` by `--json`.
        exit_code: what the command line exits with.
        quiet: whether another process of the same run says it; None before they have met.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.info("nothing")
        ... except pcgen.PcgenError as error:
        ...     print(error.hint)
        Show the models: pcgen recipes
    """

    kind = "error"
    exit_code = 1
    quiet: bool | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """Return the message without the hint."""
        return str(self.args[0])


class RecipeError(PcgenError):
    """A recipe, or a `--set`, that does not describe a model.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.train("digit", "run")
        ... except pcgen.RecipeError as error:
        ...     print(error.message)
        digit: no such recipe. Did you mean digits?
    """

    kind = "recipe"
    exit_code = 2


class DataError(PcgenError):
    """Data that cannot be found, read, or brought to the model's shape.

    Example:
        >>> import pcgen, torch
        >>> try:
        ...     pcgen.infer(pcgen.Network([4, 64]), torch.rand(10, 65))
        ... except pcgen.DataError as error:
        ...     print(error.message)
        data: the shape is (10, 65), and the network needs (B, 64)
    """

    kind = "data"


class CheckpointError(PcgenError):
    """A checkpoint that is missing, damaged, or made for something else.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.info("nothing")
        ... except pcgen.CheckpointError as error:
        ...     print(error.message)
        nothing: no such checkpoint, and no shipped model of that name
    """

    kind = "checkpoint"


class CalibrationError(PcgenError):
    """Too few calibration inputs for what is to be promised, or a detector that does not fit.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.ood_score("digits-ood", "digits:test", fpr=0.0001)
        ... except pcgen.CalibrationError as error:
        ...     print(error.kind)
        calibration
    """

    kind = "calibration"


class DeviceError(PcgenError):
    """A device that is not there.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.train("iris", "run", device="gpu0")
        ... except pcgen.DeviceError as error:
        ...     print(error.message)
        gpu0: no such device
    """

    kind = "device"


class RunError(PcgenError):
    """A run folder that cannot be written, or cannot be resumed.

    Example:
        >>> import pcgen
        >>> try:
        ...     pcgen.train(None, "no-run-here", resume=True)
        ... except pcgen.RunError as error:
        ...     print(error.kind)
        run
    """

    kind = "run"


class OutputError(RunError):
    """A command that would write over what it reads."""

    kind = "usage"
    exit_code = 2


class DivergenceError(PcgenError):
    """States or weights that left the finite numbers.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 64])
        >>> network.layers[0].weight.mul_(torch.inf)  # doctest: +ELLIPSIS
        tensor(...)
        >>> try:
        ...     pcgen.save(network, "never-written.safetensors")
        ... except pcgen.DivergenceError as error:
        ...     print(error.kind)
        divergence
    """

    kind = "divergence"
    too_large = (
        "The model's weights may be too large: train it again with a lower --set learning.rate=..."
    )


class OutOfMemoryError(PcgenError):
    """A batch or a network larger than the memory."""

    kind = "memory"


class DistributedError(PcgenError):
    """Another process of the same run that was lost, or that has other files."""

    kind = "distributed"


class PcgenWarning(UserWarning):
    """A doubt about a user's files or data that does not stop the work.

    `warnings.warn(message, PcgenWarning, stacklevel=2)` raises it; the command line prints it as a
    line on standard error, unless -q is given.

    Example:
        >>> import pcgen, warnings
        >>> warnings.simplefilter("ignore", pcgen.PcgenWarning)  # in a script that knows its data
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch says so in words alone on the CPU."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in said or "out of memory" in said)
    )
