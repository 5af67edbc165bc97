"""Conversion on a Ray cluster: a real one, of two nodes on this machine."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster_jobs
import fsspec
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pillow_clric import cli
from pillow_clric.convert import plan

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
HEAD = {"include_dashboard": False, "_system_config": {"health_check_timeout_ms": 2000, "health_check_period_ms": 500}}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which jobs tell where they are done."""
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def cluster(told: Path, s3: dict[str, str]) -> Iterator[Any]:
    """A cluster of one node, to which others can be added, and for which a server on this machine is S3."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        for name, value in {"TOLD": str(told), **s3}.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, **HEAD})
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    for i in range(12):
        photo.save(path / f"{i:02}.png")
    return path


def run(*arguments: str | Path) -> Result:
    command = [*map(str, arguments), "--engine", "ray", "-e", "1", "--device", "cpu"]
    return CliRunner().invoke(cli.main, command if "-" in command else [*command, "--json"])


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_lost_node(cluster: Any, folder: Path, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Job", cluster_jobs.TellingJob)
    (folder / "bad.png").write_bytes(b"no photo")
    ended = threading.Event()
    node = cluster.add_node(**NODE, node_ip_address="127.0.0.2")  # another address: the program belongs to the first

    def told_by(node: str) -> set[str]:
        return {path.name.removeprefix(f"{node}-") for path in told.glob(f"{node}-*")}

    def lose() -> None:
        while not ended.is_set() and not told_by(node.node_id):
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        (told / cluster_jobs.LOST).touch()

    losing = threading.Thread(target=lose)
    losing.start()
    result = run(folder, "-o", folder / "out")
    ended.set()
    losing.join()

    assert result.exit_code == 1
    assert f"failed: {folder / 'bad.png'}: cannot identify" in result.stderr
    assert "12 converted: " in result.stderr
    assert "; 1 failed; " in result.stderr
    found = records(result)
    assert sorted(record["source"] for record in found) == sorted(map(str, folder.glob("*.png")))
    for i in range(12):
        with Image.open(folder / "out" / f"{i:02}.clric") as image:
            image.load()
    others_did = {path.name.partition("-")[2] for path in told.iterdir() if not path.name.startswith(node.node_id)}
    assert told_by(node.node_id) & others_did  # it had begun what others did anew


def test_objects_shards_and_photos_that_kill_their_workers(
    cluster: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "Job", cluster_jobs.DeadlyJob)
    (folder / "00.png").rename(folder / "deadly.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(folder / "01.png", "one.png")
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    store.mkdir("of-cluster")
    result = run(folder, tmp_path / "shard.tar", "-o", "s3://of-cluster/out")
    assert result.exit_code == 1
    killer = f"failed: {folder / 'deadly.png'}: its worker was killed again and again: is there enough memory?\n"
    assert killer in result.stderr
    assert "12 converted: " in result.stderr
    assert f"{tmp_path}/shard.tar#one.png" in {record["source"] for record in records(result)}
    written = {name.removeprefix("of-cluster/out/") for name in store.find("of-cluster/out")}
    assert written == {"shard.tar", *(f"{i:02}.clric" for i in range(1, 12))}


def test_usage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "workers of a cluster cannot write to stdout" in run(folder / "00.png", "-o", "-").stderr
    monkeypatch.delattr("pillow_clric.convert.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_clric.convert.cluster", None)
    result = run(folder)
    assert result.exit_code == 2
    assert "--engine ray needs an extra: pip install 'pillow-clric[ray]'" in result.stderr
