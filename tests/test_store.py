"""The store of models: what is found, what is kept, and that nothing is lost or half there, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_autoencoders import BASE, TINY, random_model, write_pth_pair

from codec.autoencoders import model_file, store, zoo
from codec.autoencoders.errors import MissingModelError, ModelError, ModelFileError
from codec.autoencoders.zoo import Download, Known
from pillow_clric import cli

EMBEDDED = ["base", "patch", "transform", "vq"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with encoder and decoder of a model."""
    folder = tmp_path / "mine"
    folder.mkdir()
    return write_pth_pair(random_model("tiny", TINY, 4), folder)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file with another model."""
    model_file.write(random_model("base", BASE, 3), tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestStore:
    def test_starts_with_the_embedded_models(self, own_store: Path) -> None:
        assert [entry.name for entry in store.entries()] == EMBEDDED
        for entry in store.entries():
            assert store.find(bytes.fromhex(entry.prefix)).identity == store.load(entry.name).identity

    def test_add_find_load_remove(self, own_store: Path, tiny: Path) -> None:
        entry = store.add(tiny)
        assert entry.name == "mine"
        assert entry.path.parent == own_store
        for found in (store.find(bytes.fromhex(entry.prefix)), store.load("mine"), store.load(entry.prefix)):
            assert (found.name, found.prefix.hex()) == ("mine", entry.prefix)
        assert store.load(tiny).prefix.hex() == entry.prefix
        assert store.remove("mine") == entry
        assert contents(own_store) == {}

    def test_a_folder_that_does_not_exist_is_made(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path
    ) -> None:
        monkeypatch.setenv("CLRIC_MODELS", str(tmp_path / "a" / "b"))
        assert len(store.entries()) == len(EMBEDDED)
        store.add(tiny)
        assert len(store.entries()) == len(EMBEDDED) + 1

    def test_the_same_again_changes_nothing(self, own_store: Path, tiny: Path) -> None:
        entry = store.add(tiny)
        before = contents(own_store)
        assert store.add(tiny, "alias") == entry
        assert contents(own_store) == before

    def test_names(self, own_store: Path, tiny: Path, other: Path) -> None:
        store.add(tiny)
        before = contents(own_store)
        with pytest.raises(ModelError, match="another model is called mine"):
            store.add(other, "mine")
        with pytest.raises(ModelError, match="another model is called base"):
            store.add(other, "base")
        for name in ("", "../up", "a/b", ".hidden", "a b", "x" * 65):
            with pytest.raises(ModelError, match="no name"):
                store.add(other, name)
        assert contents(own_store) == before

    def test_what_is_missing(self, own_store: Path) -> None:
        with pytest.raises(MissingModelError, match=r"deadbeefdeadbeef.*models add"):
            store.find(bytes.fromhex("deadbeefdeadbeef"))
        with pytest.raises(MissingModelError, match="models fetch taef2"):
            store.find(bytes.fromhex("ac37457fafa9b836"))
        with pytest.raises(MissingModelError, match="models fetch taesd`"):
            store.load("taesd")
        with pytest.raises(MissingModelError, match="no model 'nothing'"):
            store.load("nothing")
        with pytest.raises(MissingModelError, match="no model 'nothing'"):
            store.remove("nothing")
        with pytest.raises(ModelError, match="cannot be removed"):
            store.remove("base")

    def test_a_damaged_model_is_found_out(self, own_store: Path, tiny: Path, other: Path) -> None:
        entry = store.add(tiny)
        whole = bytearray(entry.path.read_bytes())
        whole[-1] ^= 1
        entry.path.write_bytes(whole)
        with pytest.raises(ModelFileError, match="not the model that it was"):
            store.load("mine")
        entry.path.write_bytes(whole[:-5])
        with pytest.raises(ModelFileError, match="not a whole safetensors file"):
            store.load("mine")
        store.add(other, "other")  # the rest still works
        assert store.load("other").architecture == "base"
        assert store.remove("mine") == entry

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
    @pytest.mark.parametrize("where", ["write", "replace"])
    def test_an_interrupted_add_leaves_no_trace(
        self, where: str, error: Any, own_store: Path, tiny: Path, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add(other)
        before = contents(own_store)
        real = Path.write_bytes

        def write(path: Path, data: bytes) -> None:
            real(path, data)
            raise error

        def replace(*_: Any) -> None:
            raise error

        if where == "write":
            monkeypatch.setattr(Path, "write_bytes", write)
        else:
            monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            store.add(tiny)
        assert contents(own_store) == before

    def test_a_folder_that_may_not_be_read_hides_none_that_ship(
        self, own_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of services whose home is another user's."""

        def listdir(_: Any) -> list[str]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, "listdir", listdir)
        for name in EMBEDDED:
            entry = store.check(name)
            assert entry is not None
            assert store.find(bytes.fromhex(entry.prefix)).name == name
        for look in (partial(store.load, "mine"), partial(store.find, bytes(8)), store.entries):
            with pytest.raises(ModelError, match=r"the models in .* cannot be read: Permission denied"):
                look()

    def test_other_files_in_the_folder_are_no_models(self, own_store: Path) -> None:
        for name in ("readme.txt", ".x@0011223344556677.safetensors.1.tmp", "x@00.safetensors"):
            (own_store / name).write_text("hello")
        assert len(store.entries()) == len(EMBEDDED)


class Handler(BaseHTTPRequestHandler):
    """Serves files of a folder; those under `cut` stop half way, those under `endless` never."""

    def __init__(self, *arguments: Any, folder: Path, **more: Any) -> None:
        self.folder = folder
        super().__init__(*arguments, **more)

    def do_GET(self) -> None:
        place, _, name = self.path[1:].rpartition("/")
        if place not in ("", "cut", "endless"):
            self.send_error(404)
            return
        body = (self.folder / name).read_bytes()
        self.send_response(200)
        if place != "endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if place == "cut" else body)
        with suppress(OSError):
            while place == "endless":
                self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tiny: Path) -> Iterator[str]:
    """Address at which the files of the model `tiny` are served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folder=tiny)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def known(address: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Known]:
    """A catalogue of that model, and of such as cannot be got."""
    names = "taes_encoder.pth", "taes_decoder.pth"
    sizes = {name: (tiny / name).stat().st_size for name in names}
    sums = {name: sha256((tiny / name).read_bytes()).hexdigest() for name in names}

    def listed(place: str = "", wrong: str = "") -> Known:
        downloads = {n: Download(f"{address}/{place}{n}", sizes[n], wrong or sums[n]) for n in names}
        return Known(downloads, "for tests", "MIT")

    listing = {
        "served": listed(), "cut": listed("cut/"), "gone": listed("nowhere/"), "other": listed(wrong="0" * 64),
        "endless": listed("endless/"), "refused": Known({"x": Download("http://127.0.0.1:9/x", 1, "")}, "", ""),
    }  # fmt: skip
    monkeypatch.setattr(store, "CATALOGUE", listing)
    monkeypatch.setattr(zoo, "CATALOGUE", listing)
    return listing


class TestFetch:
    def test_gets_a_model(self, own_store: Path, known: dict[str, Known], tiny: Path) -> None:
        seen: list[tuple[int, int]] = []
        entry = store.fetch("served", lambda done, total: seen.append((done, total)))
        assert entry.name == "served"
        assert store.load("served").identity == store.load(tiny).identity
        assert seen[-1][0] == seen[-1][1] == sum(file.size for file in known["served"].files.values())
        assert seen == sorted(seen)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("cut", "is not what it was|could not be got"),
            ("gone", "404"),
            ("other", "nothing was kept"),
            ("endless", "nothing was kept"),
            ("refused", "check the network"),
            ("unheard", "served, cut"),
            ("owner/repository", "OWNER/REPOSITORY"),
        ],
    )
    def test_failures_leave_the_store_as_it_was(
        self, name: str, message: str, own_store: Path, known: dict[str, Known], other: Path
    ) -> None:
        store.add(other, "kept")
        before = contents(own_store)
        with pytest.raises(ModelError, match=message):
            store.fetch(name)
        assert contents(own_store) == before

    def test_interrupted(self, own_store: Path, known: dict[str, Known], other: Path) -> None:
        store.add(other)
        before = contents(own_store)

        def interrupt(done: int, total: int) -> None:
            if done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.fetch("served", interrupt)
        assert contents(own_store) == before
        assert store.fetch("served").name == "served"

    def test_everything_listed_is_pinned(self) -> None:
        """Each address has a revision's hash in it, and each file a size and a checksum."""
        for known in zoo.CATALOGUE.values():
            assert known.licence
            for file in known.files.values():
                parts = file.url.split("/")
                assert any(len(part) == 40 and int(part, 16) for part in parts if set(part) <= set("0123456789abcdef"))
                assert len(file.sha256) == 64
                assert file.size > 0


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.main, ["models", *map(str, arguments)], catch_exceptions=False)


class TestCommand:
    def test_list_add_remove(self, own_store: Path, tiny: Path, other: Path) -> None:
        assert "base" in run("list").output
        for source, name in ((tiny, "mine"), (other, "second")):
            added = run("add", source, "--name", name)
            assert added.exit_code == 0
            assert name in added.output
        listed = run("list").output
        prefixes = [entry.prefix for entry in store.entries()]
        assert all(word in listed for word in ("base", "mine", "second", "taesd", "sd-vae-ft-mse", *prefixes))
        assert run("remove", "mine").exit_code == 0
        assert [entry.name for entry in store.entries()] == [*EMBEDDED, "second"]

    def test_fetch(self, own_store: Path, known: dict[str, Known]) -> None:
        assert run("fetch", "served").exit_code == 0
        assert [entry.name for entry in store.entries()] == [*EMBEDDED, "served"]

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (("remove", "nothing"), 1, "models list"),
            (("remove", "base"), 1, "cannot be removed"),
            (("fetch", "nothing"), 1, "not among"),
            (("add", "/does/not/exist"), 2, "does not exist"),
            (("add", __file__), 1, "never executed"),
            (("polish",), 2, "No such command"),
        ],
    )
    def test_errors(self, arguments: tuple[str, ...], status: int, message: str, own_store: Path) -> None:
        result = run(*arguments)
        assert result.exit_code == status
        assert message in result.output
        assert contents(own_store) == {}

    def test_interrupted(self, own_store: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(store, "add", interrupt)
        result = run("add", tiny)
        assert result.exit_code == 130
        assert "interrupted" in result.output
