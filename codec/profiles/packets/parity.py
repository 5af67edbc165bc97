"""Parity packets: made of the others, which can be restored from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from codec.profiles.packets.one_packet import Head, Packet, packet, parity_numbers


def parity_packets(head: Head, streams: Mapping[int, bytes]) -> dict[int, bytes]:
    """Parity packets that there are beside those of some streams, by number."""
    numbers = parity_numbers(head.resilience, len(streams))
    if not numbers:
        return {}
    from codec import erasure  # needs NumPy

    rows = erasure.parity(_rows(head, streams), numbers)
    return {number: packet(head, number, row) for number, row in rows.items()}


def restore(
    head: Head, streams: Mapping[int, bytes], parity: Mapping[int, bytes], numbers: Collection[int]
) -> dict[int, bytes] | None:
    """Streams of missing packets by number; None if parity packets cannot tell, or are not in accord with others.

    It takes no more memory than parity packets do. Its work needs no bound beside that of the search: for each packet
    that is missing, of which there are at most as many as parity packets, 82, it goes through all rows once, and these
    are parts of the section that do not overlap. That is less for each byte than to decode one takes, whatever a file
    claims; and it is done for each of a few maps at most, and once more for what turns out not to be valid.

    Args:
        numbers: of all packets but those for parity.
    """
    missing = [number for number in numbers if number not in streams]
    rows = _rows(head, {number: streams[number] for number in numbers if number in streams})
    size = len(next(iter(parity.values()), b""))
    if not parity or len(parity) < len(missing) or any(len(row) > size for row in rows.values()):
        return None
    from codec import erasure

    if not missing:
        some = next(iter(parity))
        return {} if erasure.parity(rows, [some])[some] == parity[some] else None
    found = {}
    for number, row in erasure.restored(rows, parity, missing).items():
        section = head.to_bytes() + bytes([number]) + row
        packet = Packet.at(section, 0, len(section), len(head.detail))
        if not (packet and packet.fits(section) and packet.sound(section)) or any(section[packet.end :]):
            return None
        found[number] = section[packet.begin : packet.stop]
    return found


def _rows(head: Head, streams: Mapping[int, bytes]) -> dict[int, bytes]:
    """Packets without head and number, which parity packets are made of: their checksums tell if they are restored."""
    known = len(head.to_bytes()) + 1
    return {number: packet(head, number, stream)[known:] for number, stream in streams.items()}
