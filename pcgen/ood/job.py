"""A scoring job: a detector, its inputs and what is asked, from the first row to the last file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcgen.data.images import Images
from pcgen.distributed import Group
from pcgen.ood.detector import Detector
from pcgen.ood.provenance import Tally, meta_of
from pcgen.ood.rows import Question, Row, RowMaker, decide, with_verdicts
from pcgen.ood.scoring import Scored, scored
from pcgen.storage import row_formats as formats
from pcgen.storage.rows_file import Kept, Part, Rows

Draw = Callable[[Scored, int], list[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """Some rows, and how far the job is."""

    rows: list[Row]
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be scored, and what is asked.

    Attributes:
        inputs: in order; their rows are numbered through.
        group: processes that share the rows, if there are several.
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
        """Return the job, once it is known that it can be done.

        Raises:
            CalibrationError: a score that the detector does not have, or a guarantee that it cannot
                give.
        """
        maker = RowMaker(detector, question)
        threshold = float("nan")
        if question.fdr is None:
            first = question.scores[0]
            threshold = detector.threshold(first, question.fpr, question.guarantee)
        return cls(detector, inputs, question, maker, threshold, group)

    @property
    def total(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self.inputs))

    def begin(self, out: Path | None, asked: dict[str, Any], resume: bool) -> tuple[Rows, int]:
        """Return where rows go, and how many are there already.

        Raises:
            RunError: a file that cannot be written, or rows of another job.
        """
        if out is None:
            return Kept(), 0
        rank, size = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        part = Part(out, rank, size)
        asked = asked | {"detector": self.detector.header.get("sha256"), "count": self.total}
        if resume:
            return part, part.resume(asked)
        part.begin(asked)
        return part, 0

    def steps(self, done: int = 0, draw: Draw | None = None) -> Iterator[Step]:
        """Score this process's rows in order and yield them, but for those that are done.

        Args:
            draw: draws the heat maps of a batch whose first row has that number.
        """
        mine = range(self.total) if self.group is None else self.group.share(self.total)
        for images, before in _between(self.inputs, mine.start + done, mine.stop):
            for batch in scored(self.detector.scorers, images, self.detector.device):
                maps = draw(batch, before + batch.first) if draw is not None else []
                rows = self.maker.rows(batch, images, maps)
                done += len(rows)
                yield Step(rows, done, len(mine))

    def finish(
        self, part: Rows, out: Path | None, argv: Sequence[str], *, complete: bool
    ) -> tuple[dict[str, Any], Callable[[], Iterator[Row]]]:
        """Decide, write the files, and return the meta document and what yields the rows."""
        if self.group is not None and out is None:
            every, part = self.group.gather([*part.rows()]), Kept()
            part.add(itertools.chain.from_iterable(every))
        elif self.group is not None:
            self.group.wait()
        meta: dict[str, Any] = {}
        rows: Callable[[], Iterator[Row]] = part.rows
        if self.group is None or self.group.writes:
            meta, rows = self._write(part, out, argv, complete)
        if self.group is not None:
            meta = self.group.gather(meta)[0]
        if out is not None:
            if complete and isinstance(part, Part):
                part.remove()
            return meta, lambda: formats.read_rows(out)
        return meta, rows

    def _write(
        self, part: Rows, out: Path | None, argv: Sequence[str], complete: bool
    ) -> tuple[dict[str, Any], Callable[[], Iterator[Row]]]:
        parts: list[Rows] = [part]
        if self.group is not None and out is not None:
            parts = [Part(out, rank, self.group.size) for rank in range(self.group.size)]

        def undecided() -> Iterator[Row]:
            return itertools.chain.from_iterable(each.rows() for each in parts)

        def rows() -> Iterator[Row]:
            return with_verdicts(undecided(), verdicts)

        tally = Tally.of(undecided())
        verdicts = decide(*tally.arrays, self.threshold, self.question.fdr)
        meta = meta_of(
            self.detector,
            self.inputs,
            self.question,
            tally,
            verdicts,
            argv=argv,
            complete=complete,
        )
        if out is not None:
            formats.write_rows(rows(), self.maker.columns, out)
            formats.write_meta(meta, out)
        return meta, rows


def _between(inputs: Sequence[Images], start: int, stop: int) -> Iterator[tuple[Images, int]]:
    """Yield the inputs' rows from `start` to `stop`, and each part's first row number."""
    before = 0
    for images in inputs:
        first, last = max(0, start - before), min(len(images), stop - before)
        if first < last:
            whole = (first, last) == (0, len(images))
            yield (images if whole else images.subset(range(first, last))), before + first
        before += len(images)
