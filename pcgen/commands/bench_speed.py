"""`pcgen.bench_speed`: the table of times beside other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.arguments import require_known
from pcgen.commands.progress import OnProgress, silent, stages
from pcgen.commands.session import session


def bench_speed(
    workloads: Sequence[str] = ("W1", "W2", "W3", "W4"),
    *,
    samples: int = 20,
    threads: Sequence[int] = (1, 2),
    device: str = "cpu",
    peers: str | Path | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the speed table: times to an equilibrium and to an error beside other libraries.

    Args:
        workloads: of W1 to W4, see docs/results/speed.md; W2-4096, for a GPU; or tiny, of a second.
        samples: timings of each row.
        threads: numbers of processors that a library may use; each is a part of the table.
        device: `cpu`, or a GPU, where only pcgen's own methods run.
        peers: the folder in which `make peers` built `.peers`; the working folder if not given.
        out: a folder for `index.html`, the tables with charts, and `speed.json`.

    Raises:
        RecipeError: an unknown workload.
        DeviceError: a device that is not on this machine.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.bench_speed(["tiny"], samples=3, threads=[1])
        >>> rows[0]["samples"]
        3
    """
    import torch

    from pcgen.benchmarks.speed.cells import Place
    from pcgen.benchmarks.speed.driver import speed_rows
    from pcgen.benchmarks.speed.workloads import WORKLOADS
    from pcgen.pages import speed_page

    require_known("workload", workloads, WORKLOADS)
    rows: list[dict[str, Any]] = []
    files = [] if out is None else [Path(out) / "index.html"]
    with session(device, writes=files) as chosen, torch.no_grad():
        places = [Place(count) for count in threads]
        if chosen.device.type != "cpu":
            places = [Place(1, str(chosen.device))]
        folder = Path() if peers is None else Path(peers)
        for row in speed_rows(workloads, samples, places, folder, stages(on_progress)):
            rows.append(row)
            if out is not None:  # After every row: a run of an hour that is stopped keeps its rows.
                speed_page.write(rows, Path(out))
    return rows
