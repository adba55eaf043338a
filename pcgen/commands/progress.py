"""Progress of a public function: events that a caller may listen to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One message about the progress of a public function.

    Attributes:
        stage: the name of the present stage.
        done: number of items that are done in this stage.
        total: number of items in this stage.
        energy: nats per image.
        mse: squared error per pixel.
        accuracy: share of images that a classifier labels rightly.
        note: a sentence to keep on the screen.
        acceptance: share of a sampler's steps that were accepted.
        ess: effective sample size of the chains so far.
    """

    stage: str
    done: int = 0
    total: int = 0
    energy: float | None = None
    mse: float | None = None
    note: str = ""
    accuracy: float | None = None
    acceptance: float | None = None
    ess: float | None = None


OnProgress = Callable[[Event], None]


def stages(on_progress: OnProgress, subject: str = "") -> Callable[[str, int, int], None]:
    """Return a function that tells of a stage, how much of it is done, and how much there is.

    Args:
        subject: of all the stages, for instance a data set.
    """
    start = f"{subject}: " if subject else ""
    return lambda stage, done, total: on_progress(Event(start + stage, done, total))


def silent(event: Event) -> None:
    """Ignore the event."""
