"""`pcgen.report`: one HTML page of a run, a detector or a file of scores."""

from __future__ import annotations

from pathlib import Path

from pcgen.commands.outputs import require_safe


def report(
    run: str | Path, out: str | Path | None = None, *, heatmaps: str | Path | None = None
) -> Path:
    """Write one self-contained HTML page and return its path.

    The page takes over PNG files alone: those in the run's folder, and the heat maps that lie in
    the folder of the scores.

    Args:
        run: a run's folder, a detector, or a file of `ood_score`.
        out: the page's file; `report.html` in the run's folder, or NAME.html beside a file, if not
            given.
        heatmaps: the folder of the heat maps, where it is not in the folder of the scores.

    Raises:
        OutputError: a page that would replace one of the files that it shows.
        PcgenError: the path holds none of these, or the page cannot be written.

    Example:
        >>> import pcgen, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pcgen.train("digits", folder, settings=["learning.epochs=1"])
        ...     page = pcgen.report(folder)
        >>> page.name
        'report.html'
    """
    path = Path(run)
    maps = None if heatmaps is None else Path(heatmaps)
    if out is not None:
        page = Path(out)
    else:
        page = path.with_name(f"{path.stem}.html") if path.is_file() else path / "report.html"
    require_safe([page], _files(path, maps))

    from pcgen.ood.detector import load
    from pcgen.pages import page as html
    from pcgen.pages import run_page, scores_page

    if path.is_file() and scores_page.is_scores(path):
        return scores_page.write_scores(path, page, maps)
    if path.is_file() and scores_page.is_detector(path):
        return html.write(scores_page.detector_page(load(path)), page)
    return run_page.write(path, page)


def _files(path: Path, heatmaps: Path | None) -> list[object]:
    """Return what a page is made of: files, and the folders of pictures."""
    if path.is_dir():
        return [path, *(file for file in path.iterdir() if file.suffix != ".html")]
    return [path, path.with_name(f"{path.name}.meta.json"), path.parent, heatmaps]
