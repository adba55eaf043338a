"""A scoring job: from a detector, inputs and a question to rows, a verdict for each, and files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcgen.data.images import Images
from pcgen.distributed import Group
from pcgen.errors import RunError
from pcgen.ood.detector import Detector
from pcgen.ood.provenance import Tally, metadata_of
from pcgen.ood.rows import Question, Row, RowMaker, decide, with_verdicts
from pcgen.ood.scoring import Scored, scored
from pcgen.storage import row_formats
from pcgen.storage.rows_file import RowsFile, RowsInMemory, RowStore

Draw = Callable[[Scored, int], list[str]]
"""Draws the heat maps of a batch whose first row has this number, and returns their paths."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one batch, and the progress of the job.

    Attributes:
        rows: without verdicts.
        done: rows finished by this process.
        total: rows of this process.
    """

    rows: list[Row]
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Job:
    """A detector, the inputs that it scores, and the question about them.

    Attributes:
        inputs: in order; their rows are numbered consecutively.
        maker: turns scores into rows.
        threshold: of the first score; NaN where inputs are flagged by q-value.
        group: the processes that share the rows, if there are several.
    """

    detector: Detector
    inputs: Sequence[Images]
    question: Question
    maker: RowMaker
    threshold: float
    group: Group | None = None

    @classmethod
    def of(
        cls,
        detector: Detector,
        inputs: Sequence[Images],
        question: Question,
        group: Group | None = None,
    ) -> Job:
        """Return the job, after checking that the detector can answer the question.

        Raises:
            CalibrationError: the detector does not have the score, or has too few calibration
                inputs for the guarantee.
        """
        maker = RowMaker(detector, question)
        threshold = float("nan")
        if question.fdr is None:
            first = question.scores[0]
            threshold = detector.threshold(first, question.fpr, question.guarantee)
        return cls(detector, inputs, question, maker, threshold, group)

    @property
    def total(self) -> int:
        """Return the number of rows of all inputs."""
        return sum(map(len, self.inputs))

    def begin(
        self, out: Path | None, settings: dict[str, Any], resume: bool
    ) -> tuple[RowStore, int]:
        """Return the store for this process's rows, and the number of rows already in it.

        Args:
            settings: the settings that must be the same when the job is resumed.

        Raises:
            RunError: the file cannot be written, or it has rows of another job.
        """
        if out is None:
            return RowsInMemory(), 0
        rank, size = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        file = RowsFile(out, rank, size)
        job = settings | {"detector": self.detector.header.get("sha256"), "count": self.total}
        if resume:
            return file, file.resume(job)
        file.begin(job)
        return file, 0

    def steps(self, done: int = 0, draw: Draw | None = None) -> Iterator[Step]:
        """Score this process's rows in order and yield them batch by batch.

        Args:
            done: rows that are finished already and are skipped.
            draw: draws the heat maps of a batch.
        """
        mine = range(self.total) if self.group is None else self.group.share(self.total)
        for images, before in _between(self.inputs, mine.start + done, mine.stop):
            for batch in scored(self.detector.scorers, images, self.detector.device):
                maps = draw(batch, before + batch.first) if draw is not None else []
                rows = self.maker.rows(batch, images, maps)
                done += len(rows)
                yield Step(rows, done, len(mine))

    def finish(
        self, store: RowStore, out: Path | None, argv: Sequence[str], *, complete: bool
    ) -> tuple[dict[str, Any], Callable[[], Iterator[Row]]]:
        """Decide on every input and write the files.

        Returns:
            The metadata, and a function that yields the rows with their verdicts.
        """
        stores = self._of_all_processes(store, out)
        metadata: dict[str, Any] = {}
        rows: Callable[[], Iterator[Row]] = stores[0].rows
        if self.group is None or self.group.writes:
            metadata, rows = self._decide(stores, argv, complete)
            if out is not None:
                count = self.total if complete else metadata["counts"]["inputs"]
                counted = _counted(rows(), count, out)
                row_formats.write_rows(counted, self.maker.columns, out, metadata)
        if self.group is not None:
            metadata = self.group.gather(metadata)[0]
        if out is None:
            return metadata, rows
        if complete:
            store.remove()
        return metadata, lambda: row_formats.read_rows(out)

    def _of_all_processes(self, store: RowStore, out: Path | None) -> Sequence[RowStore]:
        """Return the rows of all processes, once these are finished, in the inputs' order."""
        if self.group is None:
            return [store]
        if out is None:
            every = self.group.gather([*store.rows()])
            return [RowsInMemory(itertools.chain.from_iterable(every))]
        self.group.wait()
        return [RowsFile(out, rank, self.group.size) for rank in range(self.group.size)]

    def _decide(
        self, stores: Sequence[RowStore], argv: Sequence[str], complete: bool
    ) -> tuple[dict[str, Any], Callable[[], Iterator[Row]]]:
        def undecided() -> Iterator[Row]:
            return itertools.chain.from_iterable(store.rows() for store in stores)

        tally = Tally.of(undecided())
        verdicts = decide(*tally.arrays, self.threshold, self.question.fdr)
        metadata = metadata_of(
            self.detector, self.inputs, self.question, tally, verdicts, argv=argv, complete=complete
        )
        return metadata, lambda: with_verdicts(undecided(), verdicts)


def _counted(rows: Iterator[Row], count: int, out: Path) -> Iterator[Row]:
    """Yield the rows; raise RunError at their end if they are not so many."""
    done = 0
    for row in rows:
        done += 1
        yield row
    if done != count:
        raise RunError(
            f"{out}: {done:,} rows where {count:,} were scored: another program changed them",
            "Score again, without --resume",
        )


def _between(inputs: Sequence[Images], start: int, stop: int) -> Iterator[tuple[Images, int]]:
    """Yield the part of each input within rows `start` to `stop`, and its first row's number."""
    before = 0
    for images in inputs:
        first, last = max(0, start - before), min(len(images), stop - before)
        if first < last:
            whole = (first, last) == (0, len(images))
            yield (images if whole else images.subset(range(first, last))), before + first
        before += len(images)
