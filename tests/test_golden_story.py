"""Two tiny streams, told symbol by symbol: which bytes must come out, and why. As golden as the files are.

A stream is one number, written as words of 32 bits, that lies in an interval. The interval is that of all such numbers
at first, and each symbol narrows it to the symbol's part of 2**24, as `docs/FORMAT.md` says.
"""

from __future__ import annotations

import numpy as np

from codec.entropy import tables
from codec.entropy.coder import Decoder, Encoder, code_categorical, code_laplace

START = (0, 0xFFFFFFFF_FFFFFFFF)  # low and range


def narrow(interval: tuple[int, int], below: int, frequency: int) -> tuple[int, int]:
    """The part of an interval for a symbol, from the frequencies of all symbols before it, and its own.

    An interval below 2**32 gets another word. Low is kept whole here, while a coder has written the words before.
    """
    low, width = interval
    unit = width >> 24
    low, width = low + unit * below, unit * frequency
    return (low << 32, width << 32) if width < 2**32 else (low, width)


def raw(interval: tuple[int, int], number: int, bits: int) -> tuple[int, int]:
    """The part for a number of so many raw bits: all are equally frequent."""
    return narrow(interval, number << (24 - bits), 1 << (24 - bits))


def test_laplace() -> None:
    values, means, scales = [1, -2, 40], [0, 5, -24], [8, 20, 16]

    # The largest scale is 20, so all tables are of K = 7: symbols 0 to 14 for distances of -7 to 7 from the centre, and
    # symbol 15 for what is further away.
    assert tables.HALF_WIDTHS[tables.half_width_index()[20]] == 7
    counts = tables.counts(0)

    # 1: its mean is 0, its scale b = exp(8 / 8 - 3) = 0.135. The centre is 0, the distance 1, the symbol 1 + 7 = 8. Its
    # probability is (exp(-0.5 / b) - exp(-1.5 / b)) / 2 = 1.24 %. Beyond 3 are 2e-12, and yet no frequency is 0.
    row = [1, 1, 1, 1, 1, 129, 208405, 16360137, 208405, 129, 1, 1, 1, 1, 1, 1]
    assert (counts[8, 8] + 1).tolist() == row
    interval = narrow(START, 16568676, 208405)
    assert interval == (0xFCD163FF_FF032E9C, 0x032E14FF_FFFCD1EB)

    # -2: mean 5 / 16, scale exp(20 / 8 - 3) = 0.607. The centre is 0 again, but tables know the 5 / 16: this is that of
    # j = 5 + 8. The distance is -2, the symbol 5, the probability 2.03 %.
    row = [90, 467, 2427, 12621, 65631, 341301, 1774873, 8421865, 4973776, 956436, 183919, 35367, 6801, 1308, 252, 82]
    assert (counts[20, 13] + 1).tolist() == row
    interval = narrow(interval, 90 + 467 + 2427 + 12621 + 65631, 341301)
    assert interval == (0xFCD5551B_1EE5F148, 0x00108F9B_E353CACB)

    # 40: mean -24 / 16, scale exp(16 / 8 - 3) = 0.368. The centre is floor((-24 + 8) / 16) = -1, with j = 0: halves are
    # rounded up. A distance of 41 is beyond 7: this is the escape, symbol 15, of the least frequency there is. After
    # these 24 bits the interval is below 2**32, and a second word begins.
    row = [1, 10, 149, 2252, 34118, 517020, 7835053, 7835061, 517020, 34118, 2252, 149, 10, 1, 1, 1]
    assert (counts[16, 0] + 1).tolist() == row
    interval = narrow(interval, 2**24 - 1, 1)
    assert interval == (0xFCE5E4B6_F1565565_00000000, 0x108F9BE3_00000000)

    # After all symbols of the run, the escape's number: 41 = 7 + 34, where 34 = 2**5 + 2.
    interval = raw(interval, 0, bits=1)  # it is above the centre
    assert interval == (0xFCE5E4B6_F1565565_00000000, 0x0847CDF1_80000000)
    interval = raw(interval, 5, bits=4)
    assert interval == (0xFCE5E4B6_F3ECC5C0_78000000, 0x00847CDF_18000000)
    interval = raw(interval, 2, bits=5)
    assert interval == (0xFCE5E4B6_F3F50D8E_69800000, 0x000423E6_F8C00000)

    # The end: all words that a decoder may read after F3F50D8F lie in the interval, whatever they are.
    assert (interval[0] + 0xFFFFFFFF) >> 32 == 0xFCE5E4B6_F3F50D8F
    data = bytes.fromhex("b6e4e5fc 8f0df5f3")  # each word with its lowest byte first

    encoder = Encoder()
    code_laplace(encoder, np.array(values, np.int32), np.array(means), np.array(scales))
    assert encoder.finish() == data
    decoder = Decoder(data)
    assert code_laplace(decoder, None, np.array(means), np.array(scales)).tolist() == values
    assert decoder.exhausted


def test_categorical() -> None:
    logits = np.array([[64, 0, -64, 0], [0, 0, 0, -2000], [-7, 500, 44, 0]], np.int32)
    symbols = [0, 2, 0]
    frequencies = (tables.softmax(logits) + 1).tolist()

    # Logits of 1, 0, -1 and 0 are 0, 1, 2 and 1 below the greatest: e = 2**24, 2**24 / e, 2**24 / e**2, rounded down.
    e = tables.exponentials()[[0, 64, 128, 64]].tolist()
    assert e == [16777216, 6171992, 2270549, 6171992]
    # They are scaled to N = 2**24 - 4, as each symbol has 1 already: r = floor(2**29 * N / 31391749), and floor(e * r /
    # 2**29) are 8966525, 3298599, 1213487, 3298599. These are 2 less than N, which the most probable symbol gets.
    assert 2**29 * (2**24 - 4) // sum(map(int, e)) == 286928807
    assert [int(x) * 286928807 >> 29 for x in e] == [8966525, 3298599, 1213487, 3298599]
    assert frequencies[0] == [8966525 + 2 + 1, 3298599 + 1, 1213487 + 1, 3298599 + 1]
    # Symbol 0, of 53.4 %, has the lowest part.
    interval = narrow(START, 0, 8966528)
    assert interval == (0, 0x88D17FFF_FF772E80)

    # Three are the same. The fourth is 31 below, beyond the end of the exponentials: it has 1, what each symbol has.
    assert frequencies[1] == [5592405, 5592405, 5592405, 1]
    interval = narrow(interval, 2 * 5592405, 5592405)
    assert interval == (0x5B3654FA_1E555556, 0x2D9B2A7D_0F2AAAAB)

    # Symbol 0 is 507 / 64 below the greatest, exp(-7.92) = 0.036 %: 11.4 bits.
    assert frequencies[2] == [6076, 16750882, 13480, 6778]
    interval = narrow(interval, 0, 6076)
    assert interval == (0x5B3654FA_1E555556, 0x00043A6E_C4703004)

    # The interval is still above 2**32: one word says all, as 0.91 + 1.58 + 11.43 bits are less than 32.
    assert (interval[0] + 0xFFFFFFFF) >> 32 == 0x5B3654FB
    data = bytes.fromhex("fb54365b")

    encoder = Encoder()
    code_categorical(encoder, np.array(symbols, np.int32), logits)
    assert encoder.finish() == data
    decoder = Decoder(data)
    assert code_categorical(decoder, None, logits).tolist() == symbols
    assert decoder.exhausted
