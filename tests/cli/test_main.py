"""The command line as a whole: help, speed, mistyped words, how failures are told."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import pcgen
from pcgen.cli import failures
from pcgen.cli.main import COMMANDS, LazyGroup, cli
from pcgen.errors import DataError, PcgenError, PcgenWarning, RecipeError
from pcgen.storage.runs import Interrupted, RunFolder


def run(*words: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(cli, list(words))


def process(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pcgen", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def modules_after(*words: str) -> set[str]:
    """Return the modules that a command line imports."""
    code = (
        "import sys\nfrom pcgen.cli.main import cli\n"
        f"try: cli.main({list(words)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


HEAVY = {"torch", "numpy", "sklearn", "torchvision", "scipy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: pcgen {name}" in result.output.replace("Usage: cli", "Usage: pcgen")
    assert len(result.output.splitlines()) >= 6


def test_every_option_is_an_argument_of_the_function_of_the_same_name() -> None:
    of_the_command = {"as_json", "as_jsonl", "quiet", "fail_above", "fail_on_ood", "quick"}
    of_the_command |= {"check", "show_settings"}  # of train, which has a function for the first
    context = click.Context(cli)
    for name in set(COMMANDS) - {"completion", "info", "recipes"}:
        command = cli.get_command(context, name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        for table, one in inner.items():
            own = f"{name}_{table}".strip("_").replace("-", "_")
            # The studies of training are one function, which takes the study's name.
            function = getattr(pcgen, own, None) or getattr(pcgen, name)
            options = {option.name for option in one.params} - of_the_command
            assert options <= set(inspect.signature(function).parameters), one.name


def test_every_file_of_the_command_line_is_a_listed_command_or_shared() -> None:
    shared = {"__init__", "main", "failures", "options", "output", "progress"}
    files = {path.stem for path in (Path(failures.__file__).parent).glob("*.py")}
    assert files - shared == {name.replace("-", "_") for name in COMMANDS}


def test_help_lists_every_command_the_environment_and_the_exit_codes() -> None:
    output = run("--help").output
    for word in [*COMMANDS, "PCGEN_DATA", "PCGEN_SET_", "NO_COLOR", "130"]:
        assert word in output


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("train", "--help"), ("recipes", "--help")]
)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    modules = modules_after(*words)
    assert not modules & HEAVY
    assert "rich" not in modules


def test_a_lazy_package_imports_nothing_heavy() -> None:
    code = "import sys, pcgen; dir(pcgen); pcgen.PcgenError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (HEAVY | {"click", "msgspec"})


def test_help_takes_little_more_than_python_with_click() -> None:
    def seconds(*words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = os.times()
        own, system = (after.children_user, after.children_system)
        return own - before.children_user + system - before.children_system

    # A ratio of processor times, and the best of several: so it holds on a slow or busy machine.
    bare = min(seconds("-c", "import click, importlib.resources") for _ in range(5))
    assert min(seconds("-m", "pcgen", "--help") for _ in range(5)) < 2.5 * bare


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "train"), ("reconstuct", "reconstruct"), ("recipies", "recipes")]
)
def test_a_mistyped_command_gets_the_nearest(typed: str, meant: str) -> None:
    result = run(typed)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.stderr


def test_a_mistyped_option_gets_the_nearest() -> None:
    result = run("train", "digits", "--ouut", "x")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_a_word_like_nothing_gets_no_guess() -> None:
    result = run("zzzzzz")
    assert result.exit_code == 2
    assert "Did you mean" not in result.stderr


def test_an_error_in_json_mode_is_one_json_document() -> None:
    result = run("train", "no-such-recipe", "--out", "x", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "recipe"
    assert "no-such-recipe" in error["message"]
    assert error["hint"] == "Show the recipes: pcgen recipes"


@pytest.mark.parametrize("words", [("trian",), ("train",), ("info",), ("bench", "tabels")])
def test_a_usage_error_in_json_mode_is_json_too(words: tuple[str, ...]) -> None:
    result = run(*words, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "usage"
    assert error["hint"].endswith("--help")


def test_a_table_that_is_not_there_names_those_that_are() -> None:
    result = run("bench", "memry")
    assert result.exit_code == 2
    assert "No such table 'memry'" in result.stderr
    assert "reconstruction" in result.stderr


def _command_that_raises(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.option("--json", is_flag=True)
    def command(json: bool) -> None:
        raise error

    monkeypatch.setattr(cli.__class__, "get_command", lambda self, context, name: command)


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x.png: no image", "Look: file x.png"), 1), (RecipeError("k"), 2)],
)
def test_a_users_mistake_is_a_line_and_a_hint(
    error: PcgenError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command_that_raises(error, monkeypatch)
    result = run("info")
    assert result.exit_code == code
    assert result.stdout == ""
    lines = [f"Error: {error.message}"] + ([error.hint] if error.hint else [])
    assert result.stderr.splitlines() == lines


def test_a_name_with_control_characters_stays_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(DataError("a\nb\x1b[31m.png: no image"), monkeypatch)
    assert run("info").stderr == "Error: a\\nb\\x1b[31m.png: no image\n"


def test_a_full_disk_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(OSError(28, "No space left on device", "out/x"), monkeypatch)
    result = run("info")
    assert result.exit_code == 1
    assert result.stderr == "Error: out/x: No space left on device\n"


def test_our_own_mistake_shows_the_traceback_and_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _command_that_raises(ZeroDivisionError("ours"), monkeypatch)
    result = run("info")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "bug in pcgen" in result.stderr
    as_json = run("info", "--json")
    assert json.loads(as_json.stderr)["error"]["kind"] == "bug"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyboardInterrupt(), "Interrupted.\n"),
        (
            Interrupted(RunFolder(Path("runs/x"))),
            """Interrupted. Saved: runs/x/last.safetensors
Continue: pcgen train --resume --out runs/x
""",
        ),
    ],
)
def test_an_interrupt_ends_with_130_and_says_what_was_saved(
    error: KeyboardInterrupt, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _command_that_raises(error, monkeypatch)
    result = run("info")
    assert result.exit_code == 130
    assert result.stderr.lstrip("\n") == says


def test_a_reader_that_leaves_gets_no_complaint() -> None:
    script = f"{sys.executable} -m pcgen completion bash | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_pcgen(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_PCGEN_COMPLETE" in result.output
    assert f"{shell}_complete" in result.output


def test_the_bash_script_is_bash(tmp_path: Path) -> None:
    script = tmp_path / "pcgen.bash"
    script.write_text(run("completion", "bash").output)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("pcgen tr", {"train"}), ("pcgen train --sh", {"--show-settings"}), ("pcgen re", set())],
)
def test_a_shell_completes_commands_and_options(typed: str, offered: set[str]) -> None:
    count = len(typed.split()) - 1
    environment = {
        "_PCGEN_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(count),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pcgen"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert found == (offered or {"recall", "recipes", "reconstruct", "report"})


def test_the_public_names_all_load() -> None:
    import pcgen

    loaded: dict[str, Any] = {name: getattr(pcgen, name) for name in pcgen.__all__}
    assert loaded["PcgenError"] is PcgenError
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pcgen.no_such_name


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_is_no_bug(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _command_that_raises(error, monkeypatch)
    result = run("info")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: not enough memory\n")
    assert "Traceback" not in result.stderr


def test_a_command_that_processes_cannot_share_runs_in_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", "iris", "-n", "3", "--out", str(tmp_path / "drawn.csv")])
    assert end.value.code == 0
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "drawn.csv").exists()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit):
        cli.main(["sample", "iris", "-n", "3", "--out", str(tmp_path / "drawn.csv")])
    assert (tmp_path / "drawn.csv").exists()


def test_a_warning_is_a_line_on_standard_error_and_quiet_hides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    @click.option("-q", "--quiet", is_flag=True)
    def command(quiet: bool) -> None:
        warnings.warn("a doubt\n", PcgenWarning, stacklevel=1)

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    assert CliRunner().invoke(cli, ["doctor"]).stderr == "Note: a doubt\\n\n"
    assert CliRunner().invoke(cli, ["doctor", "-q"]).stderr == ""
