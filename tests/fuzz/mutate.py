"""Read damaged files of every kind: each is refused in one line, or read as if it were undamaged.

`python -m tests.fuzz.mutate --seconds 600 --seed 1` goes on for longer. Every file depends on the
seed and its number alone. The process may not take more than 500 MiB above its imports.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import random
import resource
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import pcgen
from pcgen import shipped
from pcgen.commands.recipes import resolve_recipe
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import PcgenError
from pcgen.ood import detector
from pcgen.storage import checkpoint
from pcgen.storage.row_formats import read_rows
from tests.data.pictures import write_idx

KEPT = Path(__file__).parents[1] / "golden" / "0.1.0"
MEMORY = 500 * 2**20
# Words that mean something to one of the formats, or are the edge of a number's type.
WORDS = (
    *b"-1 0 1e999 nan true null [] {} ( ) ' \" , ; True |O8 <U9 ../ /etc/passwd =1+1".split(),
    *b"9223372036854775807 18446744073709551616 99999999".split(),
    b"\n",
    b"\r",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\xef\xbb\xbf",
    b"[" * 2000,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: how it is read, and whether what is read must be what was written.

    Attributes:
        read: returns the content, as text that can be compared.
        exact: whether a damaged file must be refused unless its content is the same.
    """

    name: str
    content: bytes
    read: Callable[[Path], str]
    exact: bool = False


@dataclass(slots=True)
class Outcome:
    """How many files were refused and read, and the failures."""

    refused: int = 0
    read: int = 0
    failures: list[str] = field(default_factory=list)


def mutated(content: bytes, source: random.Random) -> bytes:
    """Return the content with one to three damages."""
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        # Half of the damages are near the beginning, where headers are.
        reach = source.choice((min(len(changed), 400), len(changed))) or 1
        at, length = source.randrange(reach), source.choice((1, 1, 2, 8, 64))
        match source.randrange(7):
            case 0:
                changed[at : at + 1] = bytes(
                    [(changed[at] if changed else 0) ^ 1 << source.randrange(8)]
                )
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at : at + length] = source.randbytes(length)
            case 4:
                changed[at:at] = source.choice(WORDS)
            case 5:
                changed[at : at + length] = source.choice(WORDS)
            case 6:
                changed[at:at] = changed[at : at + length]
    return bytes(changed)


def _pixels(path: Path) -> str:
    return _read(open_data(path, like=(1, 8, 8)))


def _table(path: Path) -> str:
    return _read(open_data(path))


def _read(images: Images) -> str:
    rows = images.rows(range(len(images)))
    return f"{images.shape} {rows.status} {rows.pixels_BD.sum()}"


def _model(path: Path) -> str:
    model = checkpoint.load_model(path)
    header = {key: value for key, value in model.header.items() if key != "tensors"}
    return f"{header} {checkpoint.digest(model.network.tensors())}"


def _detector(path: Path) -> str:
    loaded = detector.load(path)
    images = torch.zeros(2, 1, 8, 8)
    rows = [*pcgen.ood_score(path, images, fpr=0.1).rows()]
    return f"{loaded.header} {checkpoint.digest(loaded.model.network.tensors())} {rows}"


def kinds(folder: Path) -> Iterator[Kind]:
    """Yield one small good file of each kind."""

    def of(name: str, read: Callable[[Path], str], *, exact: bool = False) -> Kind:
        return Kind(name, (folder / name).read_bytes(), read, exact)

    for name, read in (("digits/model", _model), ("digits-ood/detector", _detector)):
        content = (shipped.folder() / f"{name}.safetensors").read_bytes()
        yield Kind(name.replace("/", "-") + ".safetensors", content, read, exact=True)
    for name, read in (("sampler", _model), ("memory", _model), ("detector", _detector)):
        yield Kind(f"old-{name}.safetensors", (KEPT / f"{name}.safetensors").read_bytes(), read)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 8), np.uint8)
    np.save(folder / "a.npy", pixels)
    yield of("a.npy", _pixels)
    np.save(folder / "f.npy", pixels / np.float32(255))
    yield of("f.npy", _pixels)
    np.savez(folder / "a.npz", images=pixels, labels=np.arange(5))
    yield of("a.npz", _pixels)
    np.savez_compressed(folder / "c.npz", images=pixels)
    yield of("c.npz", _pixels)
    write_idx(folder / "a-idx3-ubyte", pixels)
    yield of("a-idx3-ubyte", _pixels)
    (folder / "b-idx3-ubyte.gz").write_bytes(gzip.compress((folder / "a-idx3-ubyte").read_bytes()))
    yield of("b-idx3-ubyte.gz", _pixels)
    picture = Image.fromarray(pixels[0])
    for suffix in ("png", "jpg", "bmp", "tif", "webp", "gif", "ppm"):
        picture.save(folder / f"p.{suffix}")
        yield of(f"p.{suffix}", _pixels)
    with zipfile.ZipFile(folder / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for label, suffix in itertools.product("ab", ("png", "jpg")):
            archive.write(folder / f"p.{suffix}", f"{label}/p.{suffix}")
    yield of("z.zip", _pixels)
    rows = "\n".join(f"{i},{i / 3:.3f},{'ab'[i % 2]}" for i in range(12))
    (folder / "t.csv").write_text(f"x,z,label\n{rows}\n")
    yield of("t.csv", _table)
    (folder / "scores.csv").write_text(
        "id,source,status,score,is_ood\na,b,ok,1.5,true\nc,d,ok,2,false\n"
    )
    yield of("scores.csv", lambda path: str([*read_rows(path)]))
    recipe = (shipped.folder() / "digits" / "recipe.toml").read_bytes()
    yield Kind("recipe.toml", recipe, lambda path: str(resolve_recipe(path)))


def run(seconds: float, seed: int, files: int | None = None) -> Outcome:
    """Damage files of each kind in turn until the time is over, or so many are done."""
    outcome, end = Outcome(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [*kinds(folder)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = {
                kind.name: kind.read(_written(folder / "good", kind, kind.content)) for kind in good
            }
            _limit_memory()
            for number in itertools.count():
                if time.monotonic() > end or number == files:
                    return outcome
                kind = good[number % len(good)]
                content = mutated(kind.content, random.Random(f"{seed}/{number}"))
                path = _written(folder / "damaged", kind, content)
                _try(
                    kind,
                    path,
                    expected[kind.name],
                    f"{kind.name}, seed {seed}, file {number}",
                    outcome,
                )
    raise AssertionError


def _written(folder: Path, kind: Kind, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / kind.name
    path.write_bytes(content)
    return path


def _try(kind: Kind, path: Path, expected: str, where: str, outcome: Outcome) -> None:
    try:
        found = kind.read(path)
    except PcgenError as error:
        outcome.refused += 1
        if "\n" in error.message:
            outcome.failures.append(f"{where}: a message of several lines: {error.message!r}")
    except Exception:
        outcome.failures.append(f"{where}:\n{traceback.format_exc()}")
    else:
        outcome.read += 1
        if kind.exact and found != expected:
            outcome.failures.append(f"{where}: read, with another content")


def _limit_memory() -> None:
    """Let this process take no more than so much memory above what it has."""
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def main() -> None:
    """Print the failures and the counts; exit with 1 if there is a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int)
    words = parser.parse_args()
    torch.set_num_threads(1)
    outcome = run(words.seconds, words.seed, words.files)
    for failure in outcome.failures:
        print(failure)  # noqa: T201
    print(f"{outcome.refused} refused, {outcome.read} read, {len(outcome.failures)} failures")  # noqa: T201
    raise SystemExit(bool(outcome.failures))


if __name__ == "__main__":
    main()
