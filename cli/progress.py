"""The story on standard error: a live bar, or a plain line every few seconds, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from .failures import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from pcgen.commands.progress import Event

# Seconds between two lines where standard error is no terminal, and between two looks at the bar.
_BETWEEN_LINES = 5.0
_BETWEEN_LOOKS = 0.1
# The figures of an event, with their formats.
_DIGITS = {"energy": ".4g", "mse": ".3e", "acceptance": ".2f", "ess": ".0f", "accuracy": ".4f"}


class Story:
    """Tells of a command's progress; given to the functions of pcgen.api as `on_progress`."""

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._live = sys.stderr.isatty()
        self._bar: Bar | None = None
        self._stage = ""
        self._began = self._told = clock()
        self._first = self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def say(self, text: str) -> None:
        """Say one line that stays."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(printable(text), markup=False, highlight=False)
        else:
            click.echo(printable(text), err=True)

    def __call__(self, event: Event) -> None:
        """Tell of one event; its note stays, the rest only when it is time for it."""
        if self._quiet:
            return
        if event.total:
            self._tell(event)
        if event.note:
            self.say(event.note)

    def _tell(self, event: Event) -> None:
        now = self._clock()
        # Two trainings in a row have a stage of the same name.
        if event.stage != self._stage or event.done < self._done:
            self._close()
            # The first event comes after its work was done, so speed counts from there.
            self._stage, self._began, self._told, self._first = event.stage, now, now, event.done
        self._done, ended = event.done, event.done >= event.total
        if now - self._told < (_BETWEEN_LOOKS if self._live else _BETWEEN_LINES) and not ended:
            return
        self._told = now
        words = "  ".join([*_figures(event), *self._pace(event, now)])
        if self._live:
            self._draw(event, words)
        elif not event.note:
            self.say(f"{event.stage}: {100 * event.done / event.total:.0f}%  {words}".rstrip())

    def _pace(self, event: Event, now: float) -> list[str]:
        seconds, images = now - self._began, event.done - self._first
        if seconds <= 0 or images <= 0:
            return []
        left = (event.total - event.done) * seconds / images
        return [f"{images / seconds:,.0f} images/s", f"{_clock_face(left)} left"]

    def _draw(self, event: Event, words: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.fields[words]}", style="cyan"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(event.stage, total=event.total, words=words)
        self._bar.update(
            self._bar.task_ids[0], completed=event.done, total=event.total, words=words
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._stage = ""


def _figures(event: Event) -> list[str]:
    figures = {name: getattr(event, name) for name in _DIGITS}
    return [f"{name} {x:{_DIGITS[name]}}" for name, x in figures.items() if x is not None]


def _clock_face(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
