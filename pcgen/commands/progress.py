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


def silent(event: Event) -> None:
    """Ignore the event."""
