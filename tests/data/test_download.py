"""Downloads: verified before use, each failure one line, and the next call starts anew."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pcgen.data import download, vision
from pcgen.data.sources import open_data

from .pictures import Array, idx, random_pixels, refusal

IMAGES = random_pixels(3, 28, 28)
FILES = {
    f"{split}-{kind}-ubyte.gz": gzip.compress(idx(array))
    for split in ("train", "t10k")
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", IMAGES[:, 14, 14] % 10))
}
RESOURCES = [(name, hashlib.md5(data).hexdigest()) for name, data in FILES.items()]


class Server(ThreadingHTTPServer):
    """Serves FILES, in a way that a test chooses."""

    daemon_threads = True
    manner = "good"
    asked: list[str]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.is_over = [], threading.Event()

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that give up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, manner = self.path.rpartition("/")[2], self.server.manner
        self.server.asked.append(name)
        data = FILES[name]
        if manner == "404":
            self.send_error(404)
            return
        if manner == "silent":
            self.server.is_over.wait(30)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        data = data[::-1] if manner == "corrupted" else data
        self.wfile.write(data[: len(data) // 2] if manner in ("cut", "stuck") else data)
        if manner == "stuck":
            self.wfile.flush()
            self.server.is_over.wait(30)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.delenv("PCGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        kind = SimpleNamespace(mirrors=[address], resources=RESOURCES)
        module = SimpleNamespace(datasets=SimpleNamespace(KMNIST=kind))
        monkeypatch.setattr(vision, "torchvision", lambda: module)
        # The server has no certificate; the addresses over https are tested on their own.
        monkeypatch.setattr(vision, "_secure_first", tuple)
        yield server
        server.is_over.set()
        server.shutdown()
        thread.join()


def first_pixels(name: str = "kmnist") -> Array:
    images = open_data(name)
    assert images.labels is not None
    pixels: Array = (images.rows([0]).pixels_BD.numpy() * 255).round().reshape(28, 28)
    return pixels


def test_a_download_is_verified_listed_and_not_repeated(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (first_pixels() == IMAGES[0]).all()
    assert server.asked == ["train-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Downloading KMNIST" in shown.err
    assert (first_pixels() == IMAGES[0]).all()
    assert len(server.asked) == 2
    assert (first_pixels("kmnist:test") == IMAGES[0]).all()
    lines = (tmp_path / "pcgen/KMNIST-train.md5").read_text().splitlines()
    for line in lines:
        md5, _, path = line.partition("  ")
        assert hashlib.md5((tmp_path / "pcgen" / path).read_bytes()).hexdigest() == md5
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("corrupted", "checksum differs"),
        ("cut", "cut off after"),
        ("silent", "no answer within 0.2 seconds"),
        ("stuck", "no answer within 0.2 seconds"),
        ("404", "Not Found"),
    ],
)
def test_a_download_that_fails_is_never_used_and_the_next_call_starts_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str, reason: str
) -> None:
    server.manner = manner
    if manner in ("silent", "stuck"):
        monkeypatch.setattr(download, "TIMEOUT", 0.2)
    for _ in range(2):
        error = refusal(lambda: open_data("kmnist"), "KMNIST-train: cannot be downloaded", reason)
        assert "--data-dir" in error.hint
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".gz", ".part")]
    monkeypatch.setattr(download, "TIMEOUT", 20)
    server.manner = "good"
    assert (first_pixels() == IMAGES[0]).all()


@pytest.mark.parametrize("has_receipt", [True, False])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_a_cached_file_that_has_changed_is_downloaded_anew(
    server: Server, tmp_path: Path, name: str, has_receipt: bool
) -> None:
    assert (first_pixels() == IMAGES[0]).all()
    path = tmp_path / "pcgen/KMNIST/raw" / name
    path.write_bytes(gzip.compress(idx(255 - IMAGES)))
    if not has_receipt:  # a version of pcgen that wrote none
        (tmp_path / "pcgen/KMNIST-train.md5").unlink()
    server.manner = "404"
    refusal(lambda: open_data("kmnist"), "cannot be downloaded")
    refusal(lambda: open_data("kmnist", download=False), "not the file that was published")
    server.manner, server.asked[:] = "good", []
    assert (first_pixels() == IMAGES[0]).all()
    assert server.asked == [name]


def test_what_was_published_needs_no_network_however_it_came(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "pcgen/KMNIST/raw"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
        (folder / name.removesuffix(".gz")).write_bytes(b"cut off while it was unpacked")
    assert (first_pixels() == IMAGES[0]).all()
    assert not server.asked


def test_a_second_process_waits_and_downloads_nothing(server: Server, tmp_path: Path) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(first_pixels())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(server.asked) == 2


def test_an_answer_in_drops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drops(io.BytesIO):
        length = None

        def read1(self, size: int | None = -1) -> bytes:
            return b"x"

    now = iter(range(100))
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Drops())
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with pytest.raises(ValueError, match="slower than 1024 bytes per second"):
        download._receive("http://x", io.BytesIO())
    assert next(now) < 30


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_of_an_archive_are_unpacked_and_listed(tmp_path: Path, kind: str) -> None:
    names = ["a/1.gz", "a/2.gz", "b/1.gz"]
    path = tmp_path / "x"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, name)
    else:
        with tarfile.open(path, "w:gz") as packed_tar:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(name)
                packed_tar.addfile(entry, io.BytesIO(name.encode()))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    download.ensure("x", [download.Published("x", md5, (), "a/", "out")], tmp_path)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.gz", "2.gz"]
    assert download.are_whole("x", tmp_path)
    (tmp_path / "out/1.gz").write_text("b")
    assert not download.are_whole("x", tmp_path)


def test_every_published_file_is_asked_for_over_https_first() -> None:
    for dataset in ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100", "SVHN"):
        for split in ("train", "test"):
            files = vision.published(dataset, split)
            assert files
            for file in files:
                assert file.addresses[0].startswith("https://")
                assert len(file.md5) == 32
