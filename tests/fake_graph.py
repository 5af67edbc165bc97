"""Stand-in for CUDA's graphs where there is no GPU: operations are noted, and done again on the same tensors.

As on a GPU, nothing is done while operations are noted, numbers that Python worked out meanwhile are what they were
then for ever, and so are tensors that stood in for others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They wait for the GPU, bring numbers from the CPU or draw the same random numbers each time.
REFUSED = (
    "_local_scalar_dense", "bernoulli", "linalg", "lift_fresh", "masked_select", "nonzero", "normal", "rand", "unique",
)  # fmt: skip


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, args, kwargs, made in self.operations:
                for tensor, again in zip(made, _tensors(operation(*args, **kwargs)), strict=True):
                    if tensor.data_ptr() != again.data_ptr():
                        tensor.copy_(again)


class Noting(TorchDispatchMode):
    """Notes operations and, when it ends, puts tensors that were there before back as they were."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.made = graph, dict[int, Tensor]()
        self.before = dict[int, tuple[Tensor, torch.UntypedStorage]]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation._schema.name.removeprefix("aten::").startswith(REFUSED):
            raise RuntimeError(f"{operation} cannot be in a graph")
        for tensor in _tensors((args, kwargs)):
            place = _place(tensor)
            if place not in self.made and place not in self.before:
                self.before[place] = tensor, tensor.untyped_storage().clone()
        result = operation(*args, **kwargs)
        for tensor in _tensors(result):
            if _place(tensor) not in self.before:
                self.made[_place(tensor)] = tensor
        self.graph.operations.append((operation, args, kwargs, _tensors(result)))
        return result

    def restore(self) -> None:
        for tensor, storage in self.before.values():
            tensor.untyped_storage().copy_(storage)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def captured(graph: Graph, **_: Any) -> Iterator[None]:
    """Stands for `torch.cuda.graph`."""
    noting = Noting(graph)
    try:
        with noting:
            yield
    finally:
        noting.restore()


@contextmanager
def patched() -> Iterator[list[Graph]]:
    """Give torch's names for CUDA's graphs and streams to what stands for them; yields the graphs that are made."""
    graphs: list[Graph] = []

    def made() -> Graph:
        graphs.append(Graph())
        return graphs[-1]

    class Stream:
        def __init__(self, *_: Any) -> None: ...
        def wait_stream(self, _: Any) -> None: ...

    names: dict[str, Any] = {
        "CUDAGraph": made, "graph": captured, "Stream": Stream, "current_stream": Stream,
        "stream": nullcontext, "device": nullcontext,
    }  # fmt: skip
    with patch.multiple(torch.cuda, **names):
        yield graphs
