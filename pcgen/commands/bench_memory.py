"""`pcgen.bench_memory`: the table of recalled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.progress import OnProgress, silent, stages
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session
from pcgen.errors import DataError


def bench_memory(
    counts: Sequence[int] = (50, 100, 250),
    widths: Sequence[int] = (512, 1024, 2048),
    corruptions: Sequence[str] = ("noise:0.2", "mask:bottom", "mask:75%", "occlude:8"),
    *,
    seeds: int = 3,
    published_steps: int = 0,
    data: str = "tiny-imagenet",
    share: float = 0.0,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the memory table: recall beside look-ups, on the CPU.

    Args:
        counts: numbers of stored images; each seed draws its own.
        widths: of the hidden layers.
        corruptions: that make the cues.
        seeds: number of memories that are trained for each row.
        published_steps: at most, of the published recall procedure, on our networks and on those
            trained as published; 0 leaves it out.
        data: whose training images are stored. Its `val` or `test` split is never stored.
        share: of the images' 8-bit bytes. If it is not 0, the table is one of memories that keep so
            many bytes.
        out: a folder for `index.html`, the table with capacity curves, and `memory.json`, both
            renewed after every row.

    Raises:
        DataError: Tiny ImageNet is not here, or has fewer images than are to be stored.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.bench_memory([20], [32], ["mask:bottom"], seeds=1, data="digits")
        >>> rows[0]["dataset"]
        'digits, 20 images'
    """
    import msgspec
    import torch

    from pcgen.benchmarks.memory.benchmark import memory_rows
    from pcgen.pages import memory_page

    recipe = resolve_recipe("tiny-imagenet-memory")
    files = [] if out is None else [Path(out) / "index.html"]
    with (
        session("cpu", data_dir=data_dir, writes=files, on_progress=on_progress) as place,
        torch.no_grad(),
    ):
        # The recipe stores 250 images; the table draws as many as it needs from all of them.
        whole = msgspec.structs.replace(recipe.data, source=data, limit=None)
        images = place.open_recipe_data(whole)
        split = "val" if data == "tiny-imagenet" else "test"
        others = None
        if max(counts) == len(images) or share:
            others = place.open_recipe_data(
                msgspec.structs.replace(whole, source=f"{data}:{split}")
            )
        if max(counts) > len(images):
            raise DataError(
                f"{images.source}: {len(images)} images, {max(counts)} are to be stored"
            )
        rows = []
        for row in memory_rows(
            recipe,
            images,
            counts,
            widths,
            corruptions,
            seeds=seeds,
            published_steps=published_steps,
            others=others,
            share=share,
            tell=stages(on_progress),
        ):
            rows.append(row)
            if out is not None:
                memory_page.write(rows, Path(out))
    return rows
