"""Names of heat maps: those of the inputs, each its own, all inside the folder."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from pcgen.data.images import Images
from pcgen.pages.heatmaps import file_names


@dataclass
class Named:
    """A store that has nothing but names."""

    names: list[str]
    shape: tuple[int, int, int] = (1, 1, 1)

    def __len__(self) -> int:
        return len(self.names)

    def id(self, row: int) -> str:
        return self.names[row]

    def read(self, index_B: torch.Tensor) -> tuple[torch.Tensor, list[str], list[str]]:
        raise NotImplementedError

    def digest(self) -> bytes:
        return b""


def names_of(*inputs: list[str]) -> list[str]:
    return file_names([Images("x", "x", Named(names)) for names in inputs])


@pytest.mark.parametrize(
    ("input_name", "file"),
    [
        ("photos/cat.jpg", "photos/cat.png"),
        ("cat", "cat.png"),
        ("digits[17]", "digits-17.png"),
        ("x.idx.gz[0]", "x.idx-0.png"),
        ("a.b/c.d.png", "a.b/c.d.png"),
        ("/home/me/cat.jpg", "cat.png"),
        ("../../cat.jpg", "cat.png"),
        ("a/../../cat.jpg", "a/cat.png"),
        ("..", "input.png"),
        (".hidden", ".hidden.png"),
    ],
)
def test_a_heat_map_keeps_its_input_s_name_inside_the_folder(input_name: str, file: str) -> None:
    assert names_of([input_name]) == [file]


def test_two_inputs_never_share_a_file() -> None:
    names = names_of(["a.png", "a.jpg", "A.gif"], ["a-2.png", "b/a.png"], ["a.png", "/x/a.png"])
    assert len({name.casefold() for name in names}) == 7
    assert names[:2] == ["a.png", "a-2.png"]
    assert names[4] == "b/a.png"


def test_names_do_not_depend_on_which_rows_are_scored() -> None:
    every = names_of(["a.png", "a.jpg", "b.png"])
    assert names_of(["a.png", "a.jpg"]) == every[:2]
