"""BD-rates, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest

from codec.training.bd_rate import Curve, bd_rate

E = math.e


def curve(*points: tuple[float, float]) -> Curve:
    return Curve.of("", list(points))


@pytest.mark.parametrize(
    ("points", "reference", "change"),
    [
        # Half of the rate everywhere.
        ([(1, 30), (2, 40)], [(2, 30), (4, 40)], -50),
        # The logarithm of four times the rate, falling to that of a quarter: none on average, in logarithms.
        ([(4, 30), (0.25, 40)], [(1, 30), (1, 40)], 0),
        # Only between 30 and 40 have both: there, the logarithm of the rate rises from 1 to 2, its mean is 1.5.
        ([(1, 20), (E**2, 40)], [(1, 30), (1, 50)], 100 * (E**1.5 - 1)),
        # Logarithms 0, 1, 1 at 0, 1, 2 have derivatives 1.5 (of the parabola through the three points), 0 and 0. The
        # first piece has the integral (0 + 1) / 2 + (1.5 - 0) / 12 = 0.625, the second one 1.
        ([(1, 0), (E, 1), (E, 2)], [(1, 0), (1, 2)], 100 * (E ** (1.625 / 2) - 1)),
        # Logarithms 0, 1, 4 at 0, 1, 2: the parabola has the derivative 0 at 0 and 4 at 2, and within there is the
        # harmonic mean of 1 and 3, 1.5. Integrals: 1 / 2 + (0 - 1.5) / 12 = 0.375, 5 / 2 + (1.5 - 4) / 12 = 55 / 24.
        ([(1, 0), (E, 1), (E**4, 2)], [(1, 0), (1, 2)], 100 * (E ** ((0.375 + 55 / 24) / 2) - 1)),
    ],
)
def test_is_as_computed_by_hand(
    points: list[tuple[float, float]], reference: list[tuple[float, float]], change: float
) -> None:
    found = bd_rate(curve(*points), curve(*reference))
    assert found == pytest.approx(change, abs=1e-9)
    back = bd_rate(curve(*reference), curve(*points))
    assert back is not None
    assert (1 + back / 100) * (1 + change / 100) == pytest.approx(1)


def test_curves_without_a_common_range_are_not_compared() -> None:
    some = curve((1, 30), (2, 40))
    for other in (curve((1, 40), (2, 50)), curve((1, 35)), curve()):
        assert bd_rate(some, other) is None
        assert bd_rate(other, some) is None


def test_points_come_in_any_order_and_the_least_rate_counts() -> None:
    made = curve((3, 40), (1, 30), (2, 40))
    assert (made.bpp.tolist(), made.values.tolist()) == ([1, 2], [30, 40])
