"""What all tests share: one thread, the real data sets, and no silent skips where those are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported. The tests' products are small: a second thread waits more than it works,
# and many times so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The golden numbers are those of torch's own products; the tests of others choose them.
os.environ["PCGEN_PRODUCTS"] = "torch"

# No test depends on the clock: an example may take as long as the machine needs.
settings.register_profile("pcgen", deadline=None)
settings.load_profile("pcgen")

_SKIPS_THAT_MAY_BE = ("cuda", "gpu", "runs as root", "needs the peer", "needs onednn", "chromium")
_KEPT = ("PCGEN_DATA", "PCGEN_NO_SKIPS", "PCGEN_PRODUCTS")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own settings out of the tests; PCGEN_DATA stays."""
    for name in list(os.environ):
        if name.startswith("PCGEN_") and name not in _KEPT:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data sets; skip where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PCGEN_DATA") or beside)
    if not (folder / "MNIST").is_dir():
        pytest.skip("needs the real data sets: set PCGEN_DATA")
    return folder


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped a test although the data is there (`.ci/run`)."""
    if not os.environ.get("PCGEN_NO_SKIPS"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of pytest-xdist: the main process has the reports of all
        return
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else "")
        if not any(word in reason.lower() for word in _SKIPS_THAT_MAY_BE):
            reporter.write_line(f"PCGEN_NO_SKIPS: {report.nodeid} was skipped: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
