"""Everything runs on the device that was asked for: tested without having one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_graph
import pytest
import torch
from torch.utils import backend_registration

from codec import device, runtime
from codec.overfit import fit, initialisation
from codec.overfit.fit import Schedule
from codec.overfit.function import Function
from codec.overfit.spec import Spec
from codec.overfit.valid_region import ValidRegion


@pytest.mark.usefixtures("golden_models")
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no such devices",
)
def test_all_is_on_the_device() -> None:
    """In a process of its own: a device that torch knows is there for good."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(here / "fake_device.py")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("profile") == 7
    assert "trained 2" in result.stdout


@pytest.mark.parametrize(("forked", "kind"), [(False, "cuda"), (True, "cpu")])
def test_auto_takes_what_can_be_used(forked: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA does not work in a process that was forked from one that uses it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: forked)
    assert runtime.resolve("auto").type == kind


# Graphs


def graphed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fits believe that the CPU is a GPU, and that few iterations are worth a graph."""

    class OnGPU(device.Repeated):
        def __init__(self, action: Callable[[], None], _: torch.device, times: int) -> None:
            super().__init__(action, torch.device("cuda"), times)

    monkeypatch.setattr(fit, "Repeated", OnGPU)
    monkeypatch.setattr(device, "GRAPHED", 8)


def of_pictures() -> Function:
    """A fit as `coolchic` does it, of two pictures of different sizes, whose lambdas are changed on the way."""
    generator = torch.Generator().manual_seed(0)
    target, lambdas = torch.rand(2, 3, 12, 17, generator=generator), torch.tensor((1e-3, 1e-4))
    start = initialisation.trained(target, lambdas)
    region = ValidRegion(torch.tensor([(12, 17), (9, 11)]), (12, 17), levels=len(start.grids))
    schedule = Schedule(0, 40, 9, preconditioned=True)
    one = fit.Fit(target, lambdas, [start.within(region)], schedule, generator)
    return one.run(lambda function, lambdas, part: (function, lambdas * (1 + part)))


def of_latent() -> Function:
    """A fit as published: of several candidates, with few features on many grids."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(1, 4, 9, 14, generator=generator)
    candidates = [
        initialisation.random(Spec(9, 14, 4, features=(1,) * 4, spatial=8, references=0), generator) for _ in range(3)
    ]
    return fit.fit(target, torch.full((1,), 0.01), candidates, Schedule(9, 12, 10), generator)


@pytest.mark.parametrize(("fitted", "count"), [(of_pictures, 8), (of_latent, 3)])
def test_graphs_do_what_was_captured(
    monkeypatch: pytest.MonkeyPatch, fitted: Callable[[], Function], count: int
) -> None:
    """Tensors that iterations change are where the graph looks for them, and nothing in it waits for the GPU."""
    plain = fitted()
    graphed(monkeypatch)
    with fake_graph.patched() as graphs:
        other = fitted()
    assert len(graphs) == count
    assert all(graph.replays for graph in graphs)
    check_same(plain, other)


def test_fits_go_on_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = of_latent()
    graphed(monkeypatch)
    monkeypatch.setattr(fake_graph, "REFUSED", ("_fused_adam",))
    with fake_graph.patched() as graphs, pytest.warns(UserWarning, match="_fused_adam_.* cannot be in a graph"):
        other = of_latent()
    assert not any(graph.replays for graph in graphs)
    check_same(plain, other)


def check_same(plain: Function, other: Function) -> None:
    for name, w in plain.weights.items():
        torch.testing.assert_close(other.weights[name], w)
    for a, b in zip(plain.grids, other.grids, strict=True):
        assert torch.equal(a, b)
