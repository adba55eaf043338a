"""Checkpoints: what was saved comes back, damage is found, and a failed save loses nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcgen.config import from_dict
from pcgen.errors import CheckpointError, DivergenceError, PcgenWarning
from pcgen.model.network import Network, build
from pcgen.storage import checkpoint


def written(path: Path, **changes: object) -> Network:
    recipe = from_dict({"model": {"layers": [2, 3], "start": "linear"}})
    network = build(recipe.model, 4, torch.Generator().manual_seed(0))
    data = {"shape": [1, 2, 2], "scale": None}
    header = checkpoint.model_header(network, recipe, data, {"mse": 0.5}) | changes
    checkpoint.save(path, network.tensors(), header)
    return network


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    network = written(tmp_path / "m.safetensors")
    model = checkpoint.load_model(tmp_path / "m.safetensors")
    assert model.shape == (1, 2, 2)
    assert model.header["metrics"] == {"mse": 0.5}
    for name, tensor in network.tensors().items():
        assert torch.equal(model.network.tensors()[name], tensor)


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors")
    written(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    path.write_bytes(path.read_bytes()[:kept])
    for read in (checkpoint.read_header, checkpoint.load_model):
        with pytest.raises(CheckpointError, match=r"m\.safetensors: "):
            read(path)


def test_a_flipped_bit_in_the_tensors_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not those that were saved"):
        checkpoint.load_model(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipe": {"model": {"layers": [2, 3], "lairs": 1}}}, "unknown key model.lairs"),
        ({"recipe": {"model": {"layers": [2, 2]}}}, "layers.0.weight is"),
        ({"recipe": {"model": {"layers": [16, 40_000, 40_000]}}}, "its recipe needs 1,6"),
        ({"recipe": {"model": {"layers": [1] * 1000}}}, "more layers than it stores"),
        ({"data": {"shape": [1, 2**31, 2**31]}}, "needs"),
        ({"data": {"shape": [1, 2, 2], "columns": [1, 2, 3, 4]}}, "incomplete"),
        ({"data": {"shape": [1, 2, 2], "classes": "ab"}}, "incomplete"),
        ({"data": {"shape": [1, 2, 2], "scale": [[1.0], [1.0]]}}, "incomplete"),
        ({"recipe": 3}, "not a table"),
        ({"data": {}}, "incomplete"),
        ({"data": {"shape": [0, 2, 2]}}, "incomplete"),
        ({"data": {"shape": "abc"}}, "incomplete"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    written(tmp_path / "m.safetensors", **changes)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float) -> None:
    path = tmp_path / "m.safetensors"
    network = written(path)
    before = path.read_bytes()
    network.layers[0].weight[0, 0] = value
    with pytest.raises(DivergenceError, match=r"not saved: layers\.0\.weight is not finite"):
        checkpoint.save(path, network.tensors(), {})
    assert path.read_bytes() == before


def rewritten(path: Path, old: str, new: str) -> None:
    """Replace a word in the header of a checkpoint, and nothing else."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].decode()
    assert old in header
    header = header.replace(old, new, 1)
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + content[end:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('\\"tanh\\"', '\\"relu\\"'),
        ('\\"mse\\": 0.5', '\\"mse\\": 0.1'),
        ('\\"seed\\": 0', '\\"seed\\": 1'),
        ('\\"sha256\\": \\"', '\\"sha256\\": \\"0'),
        ('"shape": [3, 2]', '"shape": [2, 3]'),
        ('"dtype": "F32"', '"dtype": "I32"'),
    ],
)
def test_a_changed_header_is_refused_by_every_reader(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    rewritten(path, old, new)
    for read in (checkpoint.read_header, checkpoint.load_model):
        with pytest.raises(CheckpointError, match="header is not the one that was saved"):
            read(path)


def test_a_header_without_its_hash_is_not_taken_for_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    rewritten(path, '\\"tensors_sha256\\"', '\\"tensors\\"')
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_model(path)


def test_a_file_whose_header_has_no_hash_is_loaded_with_a_warning(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    network = written(path)
    header = checkpoint.read_header(path)
    header["sha256"] = header.pop("tensors_sha256")
    save_file(network.tensors(), path, {"pcgen": json.dumps(header)})
    with pytest.warns(PcgenWarning, match="only its tensors have a checksum"):
        checkpoint.load_model(path)


def test_a_recipe_larger_than_its_file_is_refused_before_the_network_is_built(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.safetensors"
    written(path, recipe={"model": {"layers": [16, 40_000, 40_000]}})
    code = """
import resource, sys
from pathlib import Path
import pcgen.model.network
from pcgen.errors import CheckpointError
from pcgen.storage import checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    checkpoint.load_model(Path(sys.argv[1]))
except CheckpointError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.read_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no checkpoint at all",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (2**60).to_bytes(8, "little") + b"{}",
    ],
)
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a"):
        checkpoint.read_header(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a pcgen checkpoint"):
        checkpoint.read_header(tmp_path / "other.safetensors")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        written(path, metrics={"mse": 9.0})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_reading_a_header_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    written(path)
    code = (
        "import sys, json; from pathlib import Path;"
        "from pcgen.storage.checkpoint import read_header;"
        "print(json.dumps([read_header(Path(sys.argv[1]))['sizes'], 'torch' in sys.modules]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout) == [[4, 3, 2], False]
