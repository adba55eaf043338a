"""The result on standard output and the story on standard error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pcgen.cli import output, progress
from pcgen.cli.main import cli
from pcgen.commands.progress import Event


def test_every_document_has_the_keys_that_scripts_rely_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.write_json("reconstruct", {"mse": 0.1234567890123, "model": "m", "pcgen": "other"})
    document = json.loads(capsys.readouterr().out)
    assert list(document)[:7] == [
        "pcgen",
        "schema",
        "command",
        "model",
        "seed",
        "device",
        "inference",
    ]
    assert document["schema"] == 1
    assert document["command"] == "reconstruct"
    assert document["model"] == "m"
    assert document["pcgen"] != "other"
    assert document["mse"] == 0.1234567890123


def test_what_is_no_number_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json("x", {"a": float("nan"), "b": [float("inf"), Path("p")], "c": "\udcff"})
    document = json.loads(capsys.readouterr().out)
    assert document["a"] is None
    assert document["b"] == [None, "p"]


def test_a_table_in_a_pipe_cuts_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a" * 60
    output.write_rows([{"name": "mnist", "where": path, "count": 60000}])
    written = capsys.readouterr().out
    assert path in written
    assert "60,000" in written


@pytest.mark.parametrize("command", ["recipes", "datasets"])
def test_a_list_fits_80_columns_and_breaks_no_name(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_WIDTH_OF_A_PIPE", 80)
    result = CliRunner().invoke(cli, [command])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert max(map(len, lines)) <= 80
    assert " for " in lines[0]
    rows = json.loads(CliRunner().invoke(cli, [command, "--json"]).stdout)[command]
    assert {row["name"] for row in rows} <= {line.split(" ")[0] for line in lines}
    assert all(row["for"] for row in rows)


def test_a_map_is_shown_by_its_size() -> None:
    assert output.shown([256, [32, 8, 8]]) == "256 32x8x8"


def test_markup_in_a_name_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_rows([{"name": "[bold]x[/bold]\n"}])
    output.write_pairs({"name": "[red]y"})
    written = capsys.readouterr().out
    assert "[bold]x[/bold]\\n" in written
    assert "[red]y" in written


def test_rows_of_nothing_print_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_rows([])
    output.write_json_lines([{"id": "a"}, {"id": "b"}])
    assert capsys.readouterr().out.splitlines()[-2:] == ['{"id": "a"}', '{"id": "b"}']


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tell(story: progress.Story, clock: Clock) -> None:
    for done in range(100, 2001, 100):
        clock.now += 1.0
        note = "" if done % 1000 else f"epoch {done // 1000}/2: energy 1.5"
        story(Event("training", done, 2000, 1.25, 3e-3, note))


def test_where_no_terminal_is_there_are_plain_lines_seconds_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress.Story(quiet=False, clock=clock) as story:
        tell(story, clock)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "training: 30%  energy 1.25  mse 3.000e-03  100 images/s  00:14 left"
    assert "epoch 1/2: energy 1.5" in lines
    assert "epoch 2/2: energy 1.5" in lines
    assert len(lines) == 5
    assert "\x1b" not in captured.err


def test_a_second_training_in_a_row_has_a_clock_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress.Story(quiet=False, clock=clock) as story:
        for seconds in (1.0, 10.0):
            story(Event("training", 0, 100))
            clock.now += seconds
            story(Event("training", 100, 100))
    assert capsys.readouterr().err.splitlines() == [
        "training: 100%  100 images/s  00:00 left",
        "training: 100%  10 images/s  00:00 left",
    ]


def test_a_quiet_story_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress.Story(quiet=True, clock=clock) as story:
        tell(story, clock)
        story.say("done")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()
    with progress.Story(quiet=False, clock=clock) as story:
        tell(story, clock)
    written = capsys.readouterr()
    assert written.out == ""
    assert "epoch 2/2: energy 1.5" in written.err
