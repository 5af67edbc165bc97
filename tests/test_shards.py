"""Shards of data sets as inputs and outputs of `clric-convert`."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import opened, run
from conftest import png as as_png
from PIL import Image

import pillow_clric
from pillow_clric.convert import one_file

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

HUGGING_FACE = {"bytes": pa.binary(), "path": pa.string()}


pytestmark = pytest.mark.usefixtures("one_core", "fast_profile")


@pytest.fixture
def png(photo: Image.Image) -> bytes:
    return as_png(photo)


def write_parquet(path: Path, columns: dict[str, Any], schema: Any, rows: int = 2) -> None:
    """A file of which each group has so many rows."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema.with_metadata({"huggingface": "{}"})), path, row_group_size=rows)


def test_parquet_there_and_back(png: bytes, photo: Image.Image, tmp_path: Path) -> None:
    schema = pa.schema({"label": pa.int64(), "image": pa.binary(), "text": pa.string()})
    columns = {"label": [1, 2, 3, 4, 5], "image": [png, None, png, b"", png], "text": [*"abcde"]}
    write_parquet(tmp_path / "in" / "x.parquet", columns, schema)
    result = run(tmp_path / "in", "-o", tmp_path / "coded", "--json")
    assert result.exit_code == 0
    assert "3 converted" in result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["source"] for record in told] == [f"{tmp_path}/in/x.parquet#{row}" for row in (0, 2, 4)]
    assert told[2]["target"] == f"{tmp_path}/coded/x.parquet#4.clric"
    table = pq.read_table(tmp_path / "coded" / "x.parquet")
    assert table.schema.equals(schema, check_metadata=False)
    assert table.schema.metadata[b"huggingface"] == b"{}"
    assert table.drop(["image"]).to_pydict() == {"label": columns["label"], "text": columns["text"]}
    coded = table["image"].to_pylist()
    assert [opened(data).format if data else data for data in coded] == ["CLRIC", None, "CLRIC", b"", "CLRIC"]
    assert told[0]["bytes_out"] == len(coded[0])

    assert "skipped" in run(tmp_path / "in", "-o", tmp_path / "coded").stderr
    assert run(tmp_path / "coded", "-o", tmp_path / "back").exit_code == 0
    back = pq.read_table(tmp_path / "back" / "x.parquet")["image"].to_pylist()
    assert (opened(back[4]).format, opened(back[4]).tobytes()) == ("PNG", photo.tobytes())


def test_objects_of_hugging_face_and_rows_that_fail(png: bytes, tmp_path: Path) -> None:
    rows = [{"bytes": png, "path": "a.png"}, {"bytes": b"no photo", "path": "b.png"}, None]
    path = tmp_path / "x.parquet"
    write_parquet(path, {"image": rows}, pa.schema({"image": pa.struct(HUGGING_FACE)}))
    result = run(path, "-o", tmp_path / "y.parquet")
    assert result.exit_code == 1
    assert f"failed: {path}#1: cannot identify its format" in result.stderr
    assert "1 converted" in result.stderr
    found = pq.read_table(tmp_path / "y.parquet")["image"].to_pylist()
    assert opened(found[0]["bytes"]).format == "CLRIC"
    assert (found[0]["path"], found[1:]) == ("a.png", [{"bytes": None, "path": "b.png"}, None])


def test_which_column(png: bytes, tmp_path: Path) -> None:
    path, out = tmp_path / "x.parquet", tmp_path / "out"
    write_parquet(path, {"a": [b"1"], "b": [png]}, pa.schema({"a": pa.binary(), "b": pa.large_binary()}))
    for arguments, why in {
        (): "it is not clear which column holds the photos: --column takes one of a, b\n",
        ("--column", "c"): "no column of bytes is called c: --column takes one of a, b\n",
    }.items():
        result = run(path, "-o", out, *arguments)
        assert result.exit_code == 1
        assert f"failed: {path}: {why}" in result.stderr
    assert not out.exists()
    assert run(path, "-o", out, "--column", "b").exit_code == 0
    found = pq.read_table(out / "x.parquet").to_pydict()
    assert (found["a"], opened(found["b"][0]).format) == ([b"1"], "CLRIC")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), 1234567, 0o640
            tar.addfile(member, BytesIO(data))


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member) for member in tar if member.mtime == 1234567}
        return {name: file.read() for name, file in members.items() if file}


def test_tar_there_and_back(png: bytes, photo: Image.Image, tmp_path: Path) -> None:
    long = "ä" * 150 + "/0002"  # names that need another header
    members = [("0001.png", png), ("0001.json", b"{}"), (f"{long}.seg.PNG", png), (f"{long}.cls", b"7")]
    members += [("0003.jpg", png), ("0003.png", png), ("0004.png", b"no photo"), ("0004.txt", b"text")]
    write_tar(tmp_path / "x.tar", members)
    result = run(tmp_path / "x.tar", "-o", tmp_path / "coded" / "")
    assert result.exit_code == 1
    assert f"failed: {tmp_path}/x.tar#0004.png: cannot identify its format" in result.stderr
    found = read_tar(tmp_path / "coded" / "x.tar")
    assert [*found] == [
        *("0001.clric", "0001.json", f"{long}.seg.clric", f"{long}.cls"),
        *("0003.jpg.clric", "0003.png.clric", "0004.txt"),
    ]
    assert (found["0001.json"], found[f"{long}.cls"]) == (b"{}", b"7")
    assert opened(found[f"{long}.seg.clric"]).format == "CLRIC"
    assert run(tmp_path / "coded", "-o", tmp_path / "back").exit_code == 0
    back = read_tar(tmp_path / "back" / "x.tar")
    assert opened(back["0001.png"]).tobytes() == photo.tobytes()
    assert {"0003.jpg.png", "0003.png.png"} < back.keys()


def test_links_become_files(png: bytes, tmp_path: Path) -> None:
    """What they point to gets another name."""
    write_tar(tmp_path / "x.tar", [("a.png", png), ("a.cls", b"7")])
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    links = [("b.png", "a.png", hard), ("c.png", "a.png", soft), ("b.bak", "a.png", hard), ("d.png", "else.png", soft)]
    links.append(("e.png", "e.png", soft))
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        for name, to, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime = kind, to, 1234567
            tar.addfile(member)
    assert run(tmp_path / "x.tar", "-o", tmp_path / "y.tar").exit_code == 0
    with tarfile.open(tmp_path / "y.tar") as tar:
        assert tar.getmember("d.png").linkname == "else.png"
        found = {
            name: file.read()
            for name in tar.getnames()
            if name not in ("d.png", "e.png") and (file := tar.extractfile(name))
        }
    assert [*found] == ["a.clric", "a.cls", "b.clric", "c.clric", "b.bak"]
    assert found["a.clric"] == found["b.clric"] == found["c.clric"]
    assert found["b.bak"] == png


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_what_might_be_converted_another_time_is_not_left_out(
    kind: str, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that is written counts as done: next time it would be skipped."""
    if kind == "tar":
        write_tar(tmp_path / "x.tar", [("1.png", png), ("2.png", png)])
    else:
        write_parquet(tmp_path / "x.parquet", {"a": [png, png]}, pa.schema({"a": pa.binary()}))
    failing = iter([None, MemoryError("no room"), None, None])

    def encode(*arguments: Any, **options: Any) -> bytes:
        if error := next(failing):
            raise error
        return pillow_clric.encode(*arguments, **options)

    monkeypatch.setattr(one_file, "encode", encode)
    result = run(tmp_path / f"x.{kind}", "-o", tmp_path / "out" / "")
    assert result.exit_code == 1
    assert "might be converted another time: no room" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / f"x.{kind}", "-o", tmp_path / "out" / "").exit_code == 0
    assert (tmp_path / "out" / f"x.{kind}").exists()


def test_damaged_files_in_shards_are_left_out(png: bytes, clric: bytes, tmp_path: Path) -> None:
    """They will be damaged the next time, too."""
    damaged = clric[:-3] + bytes(3)
    write_tar(tmp_path / "x.tar", [("1.clric", clric), ("2.clric", damaged), ("3.clric", clric[:-2])])
    write_parquet(tmp_path / "x.parquet", {"a": [damaged, clric]}, pa.schema({"a": pa.binary()}))
    for name in ("x.tar", "x.parquet"):
        result = run(tmp_path / name, "-o", tmp_path / "out" / "")
        assert result.exit_code == 1
        assert "1 converted" in result.stderr
    assert [*read_tar(tmp_path / "out" / "x.tar")] == ["1.png"]
    first, second = pq.read_table(tmp_path / "out" / "x.parquet")["a"].to_pylist()
    assert first is None
    assert opened(second).format == "PNG"


def test_empty_shards_are_no_failures(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", {"a": [None]}, pa.schema({"a": pa.binary()}))
    assert run(tmp_path / "x.parquet", "-o", tmp_path / "out" / "").exit_code == 0
    assert pq.read_table(tmp_path / "out" / "x.parquet")["a"].to_pylist() == [None]


def test_shards_of_which_nothing_can_be_converted(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [("1.png", b"no photo"), ("1.cls", b"7")])
    result = run(tmp_path / "x.tar", "-o", tmp_path / "out" / "")
    assert result.exit_code == 1
    assert "x.tar#1.png: cannot identify its format" in result.stderr
    assert f"failed: {tmp_path}/x.tar: nothing in it could be converted" in result.stderr
    assert not (tmp_path / "out").exists()


def test_webdataset_reads_it(png: bytes, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_tar(tmp_path / "x.tar", [("1.png", png), ("1.cls", b"7"), ("2.png", png), ("2.cls", b"8")])
    assert run(tmp_path / "x.tar", "-o", tmp_path / "y.tar").exit_code == 0
    samples = list(webdataset.WebDataset(str(tmp_path / "y.tar"), shardshuffle=False))
    assert [(sample["__key__"], sample["cls"]) for sample in samples] == [("1", b"7"), ("2", b"8")]
    assert opened(samples[0]["clric"]).format == "CLRIC"


def test_names_in_tars_change_at_their_ends_only(png: bytes, tmp_path: Path) -> None:
    """Whatever else of a sample there is, is found by what they begin with."""
    write_tar(
        tmp_path / "x.tar", [(f"{name}.{end}", png) for name in ("./a", "./d/b", "c//e.f") for end in ("png", "cls")]
    )
    assert run(tmp_path / "x.tar", "-o", tmp_path / "y.tar").exit_code == 0
    names = [f"{name}.{end}" for name in ("./a", "./d/b", "c//e.f") for end in ("clric", "cls")]
    assert [*read_tar(tmp_path / "y.tar")] == names


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    (tmp_path / "y.tar").write_bytes(b"no tar" * 1000)
    write_tar(tmp_path / "z.tar", [("a.txt", b"text")])
    write_parquet(tmp_path / "w.parquet", {"a": [1]}, pa.schema({"a": pa.int64()}))
    result = run(tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"failed: {tmp_path}/w.parquet: no column holds bytes\n" in result.stderr
    assert f"failed: {tmp_path}/x.parquet: Parquet " in result.stderr
    assert f"failed: {tmp_path}/y.tar: it is no tar that can be read: " in result.stderr
    assert f"failed: {tmp_path}/z.tar: none of its members is a photo\n" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("x.tar",), ("x.tar", "-o", "x.parquet"), ("x.tar", "x.tar", "-o", "y.tar")])
def test_usage(arguments: tuple[str, ...], png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "x.tar", [("a.png", png)])
    assert run(*arguments, "--overwrite").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    assert read_tar(tmp_path / "x.tar") == {"a.png": png}
