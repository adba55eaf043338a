"""Heat maps of inputs: one PNG each, named after the input."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path, PurePosixPath

from pcgen.data.images import Images
from pcgen.errors import CheckpointError, OutputError
from pcgen.ood.detector import Detector
from pcgen.ood.job import Draw
from pcgen.ood.scoring import Scored
from pcgen.pages.pictures import heatmap_png
from pcgen.storage.files import remove_strays, replacing

_ARRAY_ROW = re.compile(r"(?P<file>.*)\[(?P<row>\d+)\]", re.DOTALL)


def drawer(detector: Detector, inputs: Sequence[Images], folder: Path) -> Draw:
    """Return a function that draws a batch's heat maps into a folder and returns their paths.

    Raises:
        CheckpointError: the detector is one of tables.
        OutputError: the folder has pictures that are inputs.
    """
    scorer = detector.scorers[0]
    if not hasattr(scorer, "heatmap") or detector.model.scale is not None:
        raise CheckpointError(f"{detector.model.path}: a table's model draws no heat maps")
    paths = [folder / name for name in file_names(inputs)]
    by_folder: dict[Path, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path.name)
    overwritten = {each.resolve() for each in by_folder} & _folders(inputs)
    if overwritten:
        raise OutputError(
            f"{overwritten.pop()}: holds inputs, which heat maps could overwrite",
            "Name another folder for the heat maps",
        )
    for each, names in by_folder.items():
        remove_strays(each, names)

    def draw(batch: Scored, first: int) -> list[str]:
        if not len(batch.data_BD):
            return []
        heat_BD = detector.heat(scorer.heatmap(batch.data_BD)).cpu()
        drawn = [paths[first + i] for i in batch.readable]
        for path, pixels_D, heat_D in zip(drawn, batch.data_BD.cpu(), heat_BD, strict=True):
            with replacing(path, one_of_many=True) as (file,):
                file.write(heatmap_png(pixels_D, heat_D, detector.model.shape))
        return [str(path) for path in drawn]

    return draw


def file_names(inputs: Sequence[Images]) -> list[str]:
    """Return a file name for each row of all inputs, relative to the folder of the heat maps.

    `photos/cat.jpg` becomes `photos/cat.png`, row 17 of `digits.npy` becomes `digits-17.png`. A
    name that is taken gets a number: `photos/cat-2.png`. The names depend on the inputs alone, so
    they are the same in every process and when a job is resumed. None leads out of the folder.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    names = []
    for images in inputs:
        for row in range(len(images)):
            stem = name = _stem(images.id(row))
            # Some file systems do not tell capital letters from small ones.
            while name.casefold() in taken:
                numbers[stem] = numbers.get(stem, 1) + 1
                name = f"{stem}-{numbers[stem]}"
            taken.add(name.casefold())
            names.append(f"{name}.png")
    return names


def _stem(name: str) -> str:
    """Return the path of an input without its ending, and without parts that lead elsewhere."""
    array_row = _ARRAY_ROW.fullmatch(name)
    path = PurePosixPath(array_row["file"] if array_row else name)
    folders = [] if path.is_absolute() else [part for part in path.parts[:-1] if part != ".."]
    stem = "input" if path.stem in ("", "..") else path.stem
    return "/".join([*folders, f"{stem}-{array_row['row']}" if array_row else stem])


def _folders(inputs: Sequence[Images]) -> set[Path]:
    """Return the folders of the inputs that are picture files."""
    folders = set()
    for images in inputs:
        roots = (Path(), Path(images.source), Path(images.source.rpartition(":")[0]))
        for name in map(images.id, range(len(images))):
            if _ARRAY_ROW.fullmatch(name) is None:
                folders |= {(root / name).parent for root in roots if isfile(root / name)}
    return {folder.resolve() for folder in folders}
