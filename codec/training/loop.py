"""The loop of all trainings: one that can be stopped and resumed at any iteration, on a CPU or a GPU.

Whatever is random is drawn from the seed and the iteration, so that a training that was stopped and resumed is the
same, bit by bit, as one that was not (on the same machine, with as many threads).
"""

from __future__ import annotations

import json
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from codec.files import replacing
from codec.training.optimizers import MuonAndAdam, Schedule

CHECKPOINT, DECAYED, LOG = "checkpoint.pt", "decayed.pt", "log.jsonl"
SAVED = 300  # seconds from one checkpoint to the next
LOGGED = 100  # iterations from one line of the log to the next
AVERAGING = 1e-3  # weight of each iteration's parameters in their average; more in the beginning
CLIPPED = 1.0  # norm of all gradients together
SKIPPED = 50  # iterations in a row whose gradients are not finite, after which none can be expected to be


class Task(ABC):
    """A model, examples to train it on, and the loss that this lowers.

    Attributes:
        name: of the training.
        model: its parameters are what is trained. It is on the loop's device when `loss` is called.
        config: of model and optimizer, which a checkpoint must agree on, as JSON has it.
        schedule: of learning rates, unless one asks for others.
    """

    name: str
    model: nn.Module
    config: Mapping[str, Any]
    schedule: Schedule

    @abstractmethod
    def optimizer(self) -> MuonAndAdam:
        """The optimizer of the model's parameters where they are now."""

    @abstractmethod
    def batch(self, seed: int, iteration: int) -> Tensor:
        """Examples for an iteration, on the CPU; called by other threads, and depends on its arguments only."""

    @abstractmethod
    def loss(self, batch: Tensor, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and figures to log, as scalars. What is random comes from torch's generator."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the model, as it is now, as the package uses it.

        Raises:
            ValueError: it cannot be written so.
        """

    def validate(self, model: nn.Module, state: Progress, folder: Path) -> dict[str, Any]:
        """Figures of the averaged model for the log; pictures may be left in the folder."""
        return {}


@dataclass(frozen=True)
class Progress:
    """Iterations and time that a training has had.

    Attributes:
        iteration: number of those done.
        seconds: of wall clock.
        core_seconds: of processor time: what is comparable if the machine does something else, too.
    """

    iteration: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0

    def as_log(self) -> dict[str, float]:
        return {
            "iteration": self.iteration,
            "hours": round(self.seconds / 3600, 4),
            "core_hours": round(self.core_seconds / 3600, 4),
        }


@dataclass(frozen=True)
class Budget:
    """Limits of a run, which ends at the first that it reaches.

    Attributes:
        hours: of wall clock, from the beginning of the run.
        core_hours: of processor time since the training began.
        iterations: since the training began.
    """

    hours: float | None = None
    core_hours: float | None = None
    iterations: int | None = None

    def spent(self, progress: Progress, begun: Progress) -> bool:
        return (
            (self.hours is not None and progress.seconds - begun.seconds >= 3600 * self.hours)
            or (self.core_hours is not None and progress.core_seconds >= 3600 * self.core_hours)
            or (self.iterations is not None and progress.iteration >= self.iterations)
        )


class Loop:
    """A training in a folder, which holds its checkpoint, its log, and what validations leave.

    Args:
        task: the training; its model is moved to the device.
        folder: made if it is missing; a checkpoint in it is resumed.
        schedule: of learning rates, by default the task's.
        seed: of all that is random.
        decay: iterations in which the learning rate falls to zero, from the checkpoint on, after which the training is
            done; the state is then kept beside the checkpoint, from which training may go on as if nothing had been.
    """

    def __init__(
        self, task: Task, folder: Path, schedule: Schedule | None = None, device: torch.device | str = "cpu",
        seed: int = 0, decay: int | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.task, self.folder, self.schedule, self.seed = task, folder, schedule or task.schedule, seed
        self.device = torch.device(device)
        task.model.to(self.device)
        self.average = {name: tensor.detach().clone() for name, tensor in task.model.state_dict().items()}
        self.optimizer = task.optimizer()
        self.progress = Progress()
        self.sums: dict[str, Tensor | float] = {}
        self.summed = self.skipped = 0
        self.checkpoint = folder / (CHECKPOINT if decay is None else DECAYED)
        if state := self._found(decay):
            self._load(state)
        if decay is not None and self.schedule.decay is None:
            self.schedule = replace(self.schedule, decay=(self.progress.iteration, self.progress.iteration + decay))

    def run(self, budget: Budget, validate_every: float | None = None, workers: int = 1) -> None:
        """Train until the budget is spent, the learning rate is zero, or SIGINT or SIGTERM asks to stop; then save.

        Args:
            validate_every: hours of training from one validation to the next; also one at the end. None: none.
            workers: threads that make batches.

        Raises:
            FloatingPointError: gradients are not finite any more.
        """
        begun = validated = self.progress
        saved = time.monotonic()
        with _stop_signals() as stopped, self._batches(workers) as batches:
            while not (stopped or budget.spent(self.progress, begun) or self._decayed()):
                wall, core = time.monotonic(), time.process_time()
                self._step(next(batches))
                self.progress = Progress(
                    self.progress.iteration + 1,
                    self.progress.seconds + time.monotonic() - wall,
                    self.progress.core_seconds + time.process_time() - core,
                )
                if self.progress.iteration % LOGGED == 0:
                    self._log_means()
                if time.monotonic() - saved > SAVED:
                    self.save()
                    saved = time.monotonic()
                if validate_every is not None and self.progress.seconds - validated.seconds > 3600 * validate_every:
                    self.validate()
                    validated = self.progress
            self.save()
            if validate_every is not None and not stopped and validated != self.progress:
                self.validate()

    def validate(self) -> None:
        """Log the figures of the averaged model."""
        with self._averaged() as model:
            figures = self.task.validate(model, self.progress, self.folder)
        if figures:
            self._log({"validation": figures})

    def export(self, path: Path) -> None:
        """Write the averaged model, as the package uses it."""
        with self._averaged():
            self.task.export(path)

    def save(self) -> None:
        """Write the checkpoint, completely or not at all."""
        state = {
            "task": self.task.name, "config": json.dumps(self.task.config), "seed": self.seed,
            "model": self.task.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state(),
            "iteration": self.progress.iteration, "seconds": self.progress.seconds,
            "core_seconds": self.progress.core_seconds, "decay": self.schedule.decay,
        }  # fmt: skip
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The model, which has its averaged parameters meanwhile."""
        model, current = self.task.model, {n: t.clone() for n, t in self.task.model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            with torch.no_grad():
                yield model.eval()
        finally:
            model.load_state_dict(current)
            model.train()

    def _found(self, decay: int | None) -> Mapping[str, Any] | None:
        """The state to go on from: that of a decay of so many iterations if it began where the training is now."""
        paths = {name: self.folder / name for name in (CHECKPOINT, DECAYED)}
        states = {
            name: torch.load(path, weights_only=True, map_location=self.device)
            for name, path in paths.items()
            if path.exists() and (name == CHECKPOINT or decay is not None)
        }
        whole, decayed = (states.get(name) for name in paths)
        begun = None if whole is None or decay is None else (whole["iteration"], whole["iteration"] + decay)
        return decayed if decayed and begun in (None, decayed["decay"] and tuple(decayed["decay"])) else whole

    def _load(self, state: Mapping[str, Any]) -> None:
        found = {"task": state["task"], "seed": state["seed"], "config": json.loads(state["config"])}
        wanted = {"task": self.task.name, "seed": self.seed, "config": json.loads(json.dumps(self.task.config))}
        for key, value in wanted.items():
            if found[key] != value:
                raise ValueError(
                    f"the checkpoint in {self.folder} was trained with {key} {found[key]}, not {value}: give the same,"
                    " or another folder"
                )
        self.task.model.load_state_dict(state["model"])
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])
        self.optimizer.load(state["optimizer"])
        self.progress = Progress(state["iteration"], state["seconds"], state["core_seconds"])
        if state["decay"] is not None:
            self.schedule = replace(self.schedule, decay=tuple(state["decay"]))

    def _decayed(self) -> bool:
        return self.schedule.decay is not None and self.progress.iteration >= self.schedule.decay[1]

    def _step(self, batch: Tensor) -> None:
        """One iteration, which changes nothing if its gradients are not finite; raises as `run`."""
        iteration = self.progress.iteration
        torch.manual_seed(self.seed * 2**32 + iteration)
        loss, figures = self.task.loss(batch.to(self.device, non_blocking=True), iteration)
        self.task.model.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), CLIPPED)
        if not norm.isfinite():  # one such step would spoil everything
            self._log({"skipped": True})
            self.skipped += 1
            if self.skipped == SKIPPED:
                raise FloatingPointError(
                    f"gradients of {SKIPPED} iterations in a row are not finite, so nothing is learned: train in "
                    "another folder with a lower learning rate, or from other weights"
                )
            return
        self.skipped = 0
        self.optimizer.step(self.schedule(iteration))
        self._update_average(iteration)
        for name, value in {"loss": loss.detach(), "norm": norm, **figures}.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.summed += 1

    @torch.no_grad()
    def _update_average(self, iteration: int) -> None:
        state = self.task.model.state_dict()
        tensors = [tensor for tensor in self.average.values() if tensor.is_floating_point()]
        current = [state[name] for name, tensor in self.average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(tensors, current, max(AVERAGING, 1 / (1 + iteration / 10)))

    @contextmanager
    def _batches(self, workers: int) -> Iterator[Iterator[Tensor]]:
        """Batches from the next iteration on, some of them made in advance."""
        pool = ThreadPoolExecutor(workers)

        def batches() -> Iterator[Tensor]:
            ahead: deque[Future[Tensor]] = deque()
            following = self.progress.iteration
            while True:
                while len(ahead) < workers + 1:
                    ahead.append(pool.submit(self.task.batch, self.seed, following))
                    following += 1
                yield ahead.popleft().result()

        try:
            yield batches()
        finally:
            pool.shutdown(cancel_futures=True)

    def _log_means(self) -> None:
        """Log the means of all figures since this was last done."""
        means = {name: float(total) / max(1, self.summed) for name, total in self.sums.items()}
        self._log({name: float(f"{mean:.5g}") for name, mean in means.items()})
        self.sums, self.summed = {}, 0

    def _log(self, figures: Mapping[str, Any]) -> None:
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps({**self.progress.as_log(), **figures}) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The log's lines, if there is one, without those of iterations that were lost and done again."""
    lines: list[dict[str, Any]] = []
    if not (folder / LOG).exists():
        return lines
    for text in (folder / LOG).read_text().splitlines():
        line = json.loads(text)
        while lines and lines[-1]["iteration"] > line["iteration"]:
            lines.pop()
        lines.append(line)
    return lines


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of being ended by them."""
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals reach the main thread only
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
