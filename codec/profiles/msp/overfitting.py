"""Latent overfitting: the latent of one picture is fitted, by the decoder and the prior as they are.

First symbols are explored as numbers (Zhang et al., "Leveraging progressive model and overfitting for efficient learned
image compression", 2022): the decoder sees rounded ones while gradients pass rounding (straight-through), and rates are
those of symbols with uniform noise. Then whole symbols descend: those change by one which by gradient, curvature and
bits make the cost lower, as many at once as do not spoil each other's gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codec.autoencoders.learned_transform import LearnedTransform
from codec.autoencoders.networks.progressive_prior import Distributions, laplace_bits
from codec.autoencoders.networks.transform_config import DOWNSCALE
from codec.device import reduced_precision
from codec.distortion.pixels import picture_error
from codec.entropy.tables import HIGH_RATE_SLOPE
from codec.importance import of_cells
from codec.runtime import cached_property

RATE = 0.12  # part of the way to where each symbol alone would cost least, at first, by the root of all iterations
STEP = 0.03  # greatest step of a symbol at once
NARROW = -2.0  # logarithm of the scale from which on a symbol may change: others would cost a hundred bits
FITTED = 0.3  # least weight of what is fitted: the rest is better off with symbols that were chosen by their bits
TOGETHER = 0.5  # part of the symbols that change at once, of all that would lower the cost alone
CURVED, TRUSTED = 1.5, 5  # initial curvature relative to the usual one, and how many changes it counts for
FLAT = 0.3  # least curvature
FELL_SHORT, EXCEEDED = 0.3, 1.0  # relative to its expected fall, that of the cost: below, changes are less bold
CAREFUL, BOLD = 1.4, 0.85  # what all curvatures are multiplied by then


class Iterations(NamedTuple):
    """Numbers of iterations in which symbols are explored, and in which they descend."""

    explore: int = 0
    descend: int = 0


@dataclass(frozen=True)
class State:
    """Whole symbols (1, channels, ...), what they cost, and their distributions.

    Attributes:
        error: distortion, which gradients are of.
    """

    symbols: Tensor
    error: Tensor
    cost: float
    found: Distributions

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the distortion."""
        return torch.autograd.grad(self.error, self.symbols)[0]


class Curvatures:
    """Half the second derivatives of the distortion by symbols, channel by channel, as changes show them.

    Args:
        usual: that of most symbols.
        weights: of the distortion of each position's pixels, (1, 1, ...) or a number.
    """

    def __init__(self, usual: float, channels: int, weights: Tensor) -> None:
        self._usual, self._weights = usual, weights
        self._errors = weights.new_full((channels, 1, 1), CURVED * usual * TRUSTED)
        self._squares = weights.new_full((channels, 1, 1), TRUSTED)
        self._caution = 1.0

    def now(self) -> Tensor:
        """(1, channels, ...), greater than they are if changes spoiled each other's gain."""
        return (self._errors / self._squares).clamp_min(FLAT * self._usual) * self._caution * self._weights

    def learn(self, change: Tensor, gradients: Tensor, fell: float) -> None:
        """Update from a change and its effect.

        Args:
            change: of symbols, (1, channels, ...).
            gradients: by how much it changed those.
            fell: fall of the cost relative to the expected one.
        """
        self._errors += (gradients * change / 2).sum((0, 2, 3))[:, None, None]
        self._squares += (change.square() * self._weights).sum((0, 2, 3))[:, None, None]
        if fell < FELL_SHORT:
            self._caution *= CAREFUL
        elif fell > EXCEEDED:
            self._caution *= BOLD


@dataclass(frozen=True)
class Overfitting:
    """A fit of a latent to its picture, by distortion + lambda * bits per pixel.

    Attributes:
        picture: (1, 3, height, width)
        weights: of the distortion, (1, 1, height, width), 0..1; None if all are 1.
        position: of the latent.
        progress: told after each iteration.
        seed: of what is random.
    """

    transform: LearnedTransform
    preset: str
    picture: Tensor
    weights: Tensor | None
    position: int
    progress: Callable[[], object]
    seed: int

    def fit(self, latents: Tensor, iterations: Iterations) -> Tensor:
        """A latent, rounded, that costs less than a latent (1, channels, ...) in symbols, not rounded."""
        free = self._free(latents.round())
        symbols = self._explore(latents, free, iterations.explore) if iterations.explore else latents.round()
        return self._descend(symbols, free, iterations.descend) if iterations.descend else symbols

    @property
    def _trade(self) -> float:
        """Distortion that a bit is worth."""
        return math.exp(self.transform.log_lambda(self.position)) / self.picture[0, 0].numel()

    @property
    def _curvature(self) -> float:
        """Distortion that a squared error of 1 in a symbol is, where steps are small."""
        return self._trade / HIGH_RATE_SLOPE

    @torch.no_grad()
    def _free(self, symbols: Tensor) -> Tensor:
        """Symbols that may change."""
        free = self._distributions(symbols).log_scale > NARROW
        return free if self.weights is None else free & (of_cells(self.weights, DOWNSCALE) >= FITTED)

    def _error(self, symbols: Tensor) -> Tensor:
        made = self.transform.networks.decode(symbols, self.position, *self.picture.shape[2:]).clamp(0, 1)
        return picture_error(made, self.picture, self.weights).sum()

    def _distributions(self, symbols: Tensor) -> Distributions:
        networks = self.transform.networks
        with reduced_precision(networks.device):
            return networks.distributions(self.transform.integer_prior(self.preset), symbols, self.position)

    def _explore(self, latents: Tensor, free: Tensor, iterations: int) -> Tensor:
        """The best of the rounded latents on a path of falling steps."""
        best, least = latents.round(), math.inf
        generator = torch.Generator(latents.device).manual_seed(self.seed)
        # The cost is about a sum of squares, so its gradient is about a step to its least, but for a factor.
        rate = RATE / math.sqrt(iterations) / 2 / self._curvature
        with torch.enable_grad():
            fitted = latents.clone().requires_grad_()
            for iteration in range(1 + iterations):
                rounded = fitted + (fitted.round() - fitted).detach()
                error, found = self._error(rounded), self._distributions(rounded)
                cost = error.item() + self._trade * laplace_bits(rounded.detach(), *found).sum().item()
                if cost < least:
                    best, least = rounded.detach().clone(), cost
                if iteration == iterations:
                    break
                noise = torch.rand(fitted.shape, generator=generator, device=fitted.device) - 0.5
                total = error + self._trade * laplace_bits(fitted + noise, *found).sum()
                (gradient,) = torch.autograd.grad(total, fitted)
                with torch.no_grad():
                    annealed = 0.5 * rate * (1 + math.cos(math.pi * iteration / iterations))
                    fitted -= (annealed * gradient).clamp_(-STEP, STEP).mul_(free)
                self.progress()
        return best

    def _descend(self, symbols: Tensor, free: Tensor, iterations: int) -> Tensor:
        """Symbols of which, in each iteration, some changed by one where that should make the cost lower.

        Contexts count by what they say, not by how they would change: they are far from linear in whole symbols.
        """
        generator = torch.Generator(symbols.device).manual_seed(self.seed)
        weights = symbols.new_ones(1, 1, 1, 1) if self.weights is None else of_cells(self.weights, DOWNSCALE)
        state, curvatures = self._state(symbols), Curvatures(self._curvature, symbols.shape[1], weights)
        for iteration in range(iterations):
            change, gain = self._change(state, curvatures.now())
            together = torch.rand(change.shape, generator=generator, device=change.device) < TOGETHER
            change = change * (free & together & (gain > 0))
            tried = self._state(state.symbols.detach() + change)
            if iteration + 1 < iterations:
                expected = (gain * change.abs()).sum().item()
                fell = (state.cost - tried.cost) / max(expected, 1e-30)
                curvatures.learn(change, tried.gradient - state.gradient, fell)
            state = min(state, tried, key=lambda each: each.cost)
            self.progress()
        return state.symbols.detach()

    def _state(self, symbols: Tensor) -> State:
        with torch.no_grad():
            found = self._distributions(symbols)
            bits = laplace_bits(symbols, *found).sum().item()
        with torch.enable_grad():
            symbols = symbols.requires_grad_()
            error = self._error(symbols)
        return State(symbols, error, error.item() + self._trade * bits, found)

    @torch.no_grad()
    def _change(self, state: State, curvatures: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each symbol should change, -1, 0 or 1, and how far the cost would fall if it were the only one.

        That is towards less distortion, or towards fewer bits, whichever is better.
        """
        symbols, gradient = state.symbols, state.gradient
        bits = laplace_bits(symbols, *state.found)

        def gain(change: Tensor) -> Tensor:
            saved = bits - laplace_bits(symbols + change, *state.found)
            return self._trade * saved - gradient * change - curvatures * change.square()

        nearer, likelier = -gradient.sign(), (state.found.mean.round() - symbols).sign()
        gains = gain(nearer), gain(likelier)
        return torch.where(gains[1] > gains[0], likelier, nearer), torch.maximum(*gains)
