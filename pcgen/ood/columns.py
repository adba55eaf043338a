"""The columns of a table as numbers of one scale, for scores of unusual rows.

* A column of numbers is standardised: (value - mean) / standard deviation of the known values. A
  constant column keeps its unit, so a new value that differs from it is unusual.
* A category is a column for each of its levels (one-hot), and one for any other level. All are
  divided by one number, so that together their variance is 1, as that of a column of numbers.
* A missing value (NaN, None, pandas.NA) stays NaN; of a category, in all of its columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)
# Levels of a category with a column of their own: the most frequent ones.
_MOST_LEVELS = 20


@dataclass(frozen=True, slots=True)
class Column:
    """How one column becomes numbers.

    Attributes:
        levels: of a category, None for a column of numbers.
        mean: of the numbers; zero for a category.
        deviation: of the numbers, or of the category.
    """

    levels: tuple[str, ...] | None
    mean: float
    deviation: float

    def __call__(self, cells_N: NDArray[Any], name: str) -> Array:
        """Return the numbers (N, 1), or (N, levels + 1).

        Raises:
            ValueError: a word in a column of numbers.
        """
        if self.levels is None:
            try:
                values_N = _numbers(cells_N)
            except ValueError as error:
                raise ValueError(f"column {name}: {error}; it had numbers in fit") from None
            with np.errstate(over="ignore"):
                return ((values_N - self.mean) / self.deviation)[:, None]
        place = {level: i for i, level in enumerate(self.levels)}
        one_hot_NL = np.zeros((len(cells_N), len(self.levels) + 1))
        for i, cell in enumerate(cells_N.tolist()):
            if _is_missing(cell):
                one_hot_NL[i] = np.nan
            else:
                one_hot_NL[i, place.get(_level(cell), -1)] = 1 / self.deviation
        return one_hot_NL


def fit_columns(
    table_ND: NDArray[Any], names: list[str], categories: Collection[int]
) -> list[Column]:
    """Return how each column of known rows becomes numbers.

    Args:
        categories: the numbers of columns that are categories although they may hold numbers.
            Other columns are categories if they hold a word.

    Raises:
        ValueError: a column without any value.
        TypeError: a cell that is neither a number nor a word.
    """
    return [
        _fit_column(cells_N, name, i in categories)
        for i, (cells_N, name) in enumerate(zip(table_ND.T, names, strict=True))
    ]


def numbers_of(columns: list[Column], table_ND: NDArray[Any], names: list[str]) -> Array:
    """Return the rows (N, D) as numbers of one scale, with NaN where a value is missing."""
    return np.concatenate(
        [
            column(cells_N, name)
            for column, cells_N, name in zip(columns, table_ND.T, names, strict=True)
        ],
        axis=1,
    )


def categories_of(table: Any, chosen: Collection[Any], names: list[str]) -> set[int]:
    """Return the numbers of the columns that are categories: the chosen ones, and pandas' own.

    Raises:
        ValueError: a chosen column that the table does not have.
    """
    dtypes = (
        [str(dtype) for dtype in getattr(table, "dtypes", [])] if hasattr(table, "columns") else []
    )
    categories = {i for i, dtype in enumerate(dtypes) if dtype == "category"}
    for column in chosen:
        number = names.index(column) if column in names else column
        if not isinstance(number, int | np.integer) or not 0 <= number < len(names):
            raise ValueError(f"categories: no column {column!r}; there is: {', '.join(names)}")
        categories.add(int(number))
    return categories


def _fit_column(cells_N: NDArray[Any], name: str, is_category: bool) -> Column:
    values_N = None
    if not is_category:
        try:
            values_N = _numbers(cells_N)
        except ValueError:  # a word
            values_N = None
    if values_N is not None:
        known_N = values_N[~np.isnan(values_N)]
        if not len(known_N):
            raise ValueError(f"column {name}: has no value in any row; leave it out")
        if np.abs(known_N).max() > _LARGEST:
            raise ValueError(f"column {name}: has a value beyond 3.4e38, float32's largest")
        mean, deviation = float(known_N.mean()), float(known_N.std())
        # The deviation of equal numbers is rounding.
        is_constant = deviation <= 1e-12 * max(abs(mean), 1e-300)
        return Column(None, mean, 1.0 if is_constant else deviation)
    counts = Counter(_level(cell) for cell in cells_N.tolist() if not _is_missing(cell))
    if not counts:
        raise ValueError(f"column {name}: has no value in any row; leave it out")
    total = sum(counts.values())
    levels = sorted(counts, key=lambda level: (-counts[level], level))[:_MOST_LEVELS]
    variance = 1 - sum((count / total) ** 2 for count in counts.values())
    return Column(tuple(levels), 0.0, variance**0.5 if variance > 1e-12 else 1.0)


def _numbers(cells_N: NDArray[Any]) -> Array:
    """Return cells as numbers; NaN where one is missing.

    Raises:
        ValueError: a cell is a word.
        TypeError: a cell is neither a number nor a word.
    """
    if cells_N.dtype == object:
        cells_N = np.array(
            [np.nan if _is_missing(cell) else cell for cell in cells_N.tolist()], object
        )
    return cells_N.astype(np.float64)


def _is_missing(cell: Any) -> bool:
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or bool(cell != cell)


def _level(cell: Any) -> str:
    is_whole = isinstance(cell, float) and cell.is_integer()
    return str(int(cell)) if is_whole else str(cell)
