"""Inputs and outputs of `clric-convert` as URLs: fsspec's memory, and a server of S3 on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import opened, png, run, same
from fast_profile import FastProfile
from PIL import Image

import pillow_clric
from pillow_clric.convert import one_file, places

pytestmark = pytest.mark.usefixtures("one_core", "fast_profile")


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system that is empty but for a bucket."""
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3").items():
            monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class(request.param).clear_instance_cache()
    system = fsspec.filesystem(request.param)
    system.mkdir("bucket")
    yield system
    system.rm("bucket", recursive=True)


@pytest.fixture
def bucket(store: Any, photo: Image.Image) -> str:
    """URL of a bucket with two photos, a hidden one, a text and a photo below it in the folder `in`."""
    for name in ("a.png", "b.PNG", ".hidden.png", "deep/down/c.png"):
        store.pipe_file(f"bucket/in/{name}", png(photo))
    store.pipe_file("bucket/in/notes.txt", b"no photo")
    return f"{store.protocol if isinstance(store.protocol, str) else store.protocol[0]}://bucket"


def names(store: Any, folder: str) -> set[str]:
    store.invalidate_cache()
    return {name.partition(f"{folder}/")[2] for name in store.find(folder)}


def test_there_and_back(store: Any, bucket: str, photo: Image.Image) -> None:
    result = run(f"{bucket}/in", "-o", f"{bucket}/out/", "--json")
    assert result.exit_code == 0
    record = json.loads(result.stdout.splitlines()[0])
    assert (record["source"], record["target"]) == (f"{bucket}/in/a.png", f"{bucket}/out/a.clric")
    assert record["bytes_out"] == store.info("bucket/out/a.clric")["size"]
    assert names(store, "bucket/out") == {"a.clric", "b.clric"}
    assert run(f"{bucket}/out", "-o", f"{bucket}/back").exit_code == 0
    assert same(opened(store.cat_file("bucket/back/a.png")), photo)


def test_trees_beside_and_twice(store: Any, bucket: str) -> None:
    before = names(store, "bucket/in")
    assert run(bucket, "-r").exit_code == 0
    assert names(store, "bucket/in") - before == {"a.clric", "b.clric", "deep/down/c.clric"}
    assert run(bucket, "-r", "-o", f"{bucket}/out").exit_code == 0
    assert names(store, "bucket/out") == {"in/a.clric", "in/b.clric", "in/deep/down/c.clric"}
    result = run(bucket, "-r", "-o", f"{bucket}/out")  # which is no input
    assert result.exit_code == 0
    assert "0 converted; 3 skipped" in result.stderr


def test_from_and_to_this_machine(store: Any, bucket: str, photo: Image.Image, tmp_path: Path) -> None:
    assert run(f"{bucket}/in", "-r", "-o", tmp_path / "out").exit_code == 0
    assert same(opened((tmp_path / "out" / "deep" / "down" / "c.clric").read_bytes()), photo)
    assert run(tmp_path / "out" / "a.clric", "-o", f"{bucket}/new.png").exit_code == 0
    assert same(opened(store.cat_file("bucket/new.png")), photo)
    assert run((tmp_path / "out" / "b.clric").as_uri(), "-o", (tmp_path / "local.png").as_uri()).exit_code == 0
    assert same(opened((tmp_path / "local.png").read_bytes()), photo)


@pytest.mark.parametrize("many", [False, True])
def test_existing_objects(many: bool, store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if many:
        monkeypatch.setattr("pillow_clric.convert.plan._FEW", 0)
    store.pipe_file("bucket/in/a.clric", b"precious")
    result = run(f"{bucket}/in", "-v")
    assert result.exit_code == 0
    assert f"skipped: {bucket}/in/a.png, as {bucket}/in/a.clric exists" in result.stderr
    assert store.cat_file("bucket/in/a.clric") == b"precious"
    assert run(f"{bucket}/in", "--overwrite").exit_code == 0
    assert store.cat_file("bucket/in/a.clric") != b"precious"
    assert run(f"{bucket}/in/a.png", f"{bucket}/in/a.clric", "--overwrite").exit_code == 2


@pytest.mark.parametrize("same_bytes", [False, True])
def test_objects_that_others_wrote_meanwhile(
    same_bytes: bool, store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode_late(image: Image.Image, **options: Any) -> bytes:
        data = pillow_clric.encode(image, **options)
        store.pipe_file("bucket/in/a.clric", data if same_bytes else b"precious")
        return data

    monkeypatch.setattr(one_file, "encode", encode_late)
    result = run(f"{bucket}/in/a.png")
    assert result.exit_code == (0 if same_bytes else 1)
    assert ("meanwhile" in result.stderr) != same_bytes
    assert (store.cat_file("bucket/in/a.clric") == b"precious") != same_bytes


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the line\nis dead")])
def test_uploads_that_end_early(error: BaseException, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem(bucket.partition(":")[0])

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(system, "pipe_file", broken)
    result = run(f"{bucket}/in/a.png")
    if isinstance(error, KeyboardInterrupt):
        assert result.exit_code == 130
    else:
        assert result.exit_code == 1
        assert f"failed: {bucket}/in/a.png: {bucket}/in/a.clric cannot be written: the line is dead\n" in result.stderr
    assert "a.clric" not in names(system, "bucket/in")


def test_what_is_missing(store: Any, bucket: str) -> None:
    store.pipe_file("bucket/in/text.png", b"no photo")
    result = run(f"{bucket}/in/gone.png", f"{bucket}/in/text.png", f"{bucket}/in/a.png", "-o", f"{bucket}/out")
    assert result.exit_code == 1
    assert f"failed: {bucket}/in/gone.png: No such file or directory\n" in result.stderr
    assert f"failed: {bucket}/in/text.png: cannot identify its format" in result.stderr
    assert "1 converted" in result.stderr


def test_objects_that_are_named_like_photos_and_are_none(store: Any, bucket: str, clric: bytes) -> None:
    store.pipe_file("bucket/in/a.png", clric)
    store.pipe_file("bucket/in/download", clric)
    result = run(f"{bucket}/in/a.png", f"{bucket}/in/download")
    assert f"failed: {bucket}/in/a.png: it is a .clric file and named like a photo" in result.stderr
    assert "download.png" in names(store, "bucket/in")


@pytest.mark.parametrize("name", ["../../up.png", "/etc/x.png", "a//b.png", "./c.png"])
def test_names_that_lead_elsewhere(
    name: str, photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [places.Url(f"memory://store/in/{name}"), places.Url("memory://store/in/fine.png")]
    monkeypatch.setattr(places.Url, "files", lambda *_, **__: found)
    monkeypatch.setattr(places.Url, "is_dir", lambda url: url.name == "in")
    monkeypatch.setattr(places.Url, "read_bytes", lambda _: png(photo))
    result = run("memory://store/in", "-r", "-o", tmp_path / "deep" / "out")
    assert result.exit_code == 1
    assert f"failed: memory://store/in/{name}: no file can have this name\n" in result.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["fine.clric"]


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("many", [False, True])
def test_missing_buckets(
    many: bool, bucket: str, fast_profile: FastProfile, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many:
        monkeypatch.setattr("pillow_clric.convert.plan._FEW", 0)
    result = run(f"{bucket}/in/a.png", "-o", "s3://nothing/out")
    assert result.exit_code == 1
    why = "s3://nothing/out/a.clric cannot be written: The specified bucket does not exist"
    assert f"failed: {bucket}/in/a.png: {why}\n" in result.stderr
    assert not fast_profile.used  # found before the slow work
    result = run("s3://nothing/a.png", "-o", f"{bucket}/out")
    assert "failed: s3://nothing/a.png: The specified bucket does not exist\n" in result.stderr


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_missing_credentials(store: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    type(store).clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    result = run(f"{bucket}/in/a.png", f"{bucket}/in/b.PNG", "-o", tmp_path)
    assert result.exit_code == 1
    assert f"failed: {bucket}/in/b.PNG: Unable to locate credentials\n" in result.stderr
    assert len(result.stderr.splitlines()) == 3
    type(store).clear_instance_cache()


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    what = "needs an extra: pip install 'pillow-clric[cloud]'"
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    said = run("gs://bucket/a.png", "odd://a/b.png", "-o", tmp_path).stderr
    assert f"failed: gs://bucket/a.png: gs:// {what} (Please install gcsfs to access Google Storage)\n" in said
    assert "failed: odd://a/b.png: Protocol not known: odd\n" in said
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert f"failed: s3://bucket/a.png: s3:// {what}\n" in run("s3://bucket/a.png", "-o", tmp_path).stderr


def test_times_cannot_be_kept(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "a.png")
    result = run(tmp_path / "a.png", "-o", "memory://bucket/", "-p")
    assert result.exit_code == 2
    assert "stores keep no times" in result.stderr


def test_info_and_verify(store: Any, bucket: str, clric: bytes) -> None:
    store.pipe_file("bucket/in/a.clric", clric)
    store.pipe_file("bucket/in/b.clric", clric[:-1])
    result = run("verify", f"{bucket}/in")
    assert result.exit_code == 1
    assert "1 good, 1 bad" in result.stderr
    assert json.loads(run("info", "--json", f"{bucket}/in/a.clric").stdout)["bytes"] == len(clric)
