"""`pcgen.report`: one HTML page of a run, a detector or a file of scores."""

from __future__ import annotations

from pathlib import Path


def report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page and return its path.

    Args:
        run: a run's folder, a model's checkpoint, a detector, or a file of `ood_score`.
        out: the page's file; `report.html` in the run's folder, or NAME.html beside a file, if not
            given.

    Raises:
        PcgenError: the path holds none of these, or the page cannot be written.
    """
    from pcgen.pages import run_page, scores_page

    path = Path(run)
    if not path.is_file():
        return run_page.write(path, path / "report.html" if out is None else Path(out))
    page = path.with_name(f"{path.stem}.html") if out is None else Path(out)
    if scores_page.is_scores(path):
        return scores_page.write_scores(path, page)
    if path.suffix == ".safetensors" and scores_page.is_detector(path):
        return scores_page.write_detector(path, page)
    return run_page.write(path, page)
