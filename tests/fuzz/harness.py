"""Checks of any bytes: they are a picture, or an `OSError` says why not. And edits that checksums don't find.

Each target takes bytes and raises, other than by an assertion, only what is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from zlib import crc32

import numpy as np
import torch
from PIL import Image, ImageFile

import pillow_clric
from codec.autoencoders import store, vector_quantised
from codec.autoencoders.learned_transform import on_device
from codec.container import FormatError, Section, pack, read_header, unpack
from codec.entropy.coder import LIMIT
from codec.entropy.tables import FRACTIONS
from codec.overfit import bitstream
from codec.overfit.lambda_conditioned_weights import LambdaConditionedWeights
from codec.profiles.clric.initialisation import universal_of
from codec.profiles.msp import bitstream as latent_bitstream
from codec.profiles.msp import latent_coding
from codec.profiles.msp.concealment import conceal
from codec.profiles.vq import index_coding
from codec.profiles.vq.profile import PACKETS

# Of pictures that are decoded. The time that a file may ask for grows with the size it claims, as in any format.
SIDE = 256
DOWNSCALE, CHANNELS = 8, 16  # of the model `base`

Edit = Callable[[bytes], bytes]


def container(data: bytes) -> None:
    """The header alone, and the sections of a complete file or of the beginning of one."""
    file = BytesIO(data)
    with suppress(FormatError):
        header = read_header(file)
        assert file.tell() == header.size
    for truncated in (False, True):
        with suppress(FormatError):
            sections = unpack(data, allow_truncated=truncated).sections
            assert sum(map(len, sections.values())) <= len(data)


def function(data: bytes) -> None:
    """The weights and grids of a function, without networks that run in floats."""
    with suppress(FormatError):
        weights, grids, size, universal = function_of(data)
        for truncated in (False, True):
            with suppress(FormatError):
                spec, _, read = bitstream.read(weights, grids, *size, universal, truncated=truncated)
                assert [np.stack(g).shape[1:] for g in read] == list(spec.sizes)
                assert all(np.abs(plane).max() < 2**14 for grid in read for plane in grid)


def function_of(data: bytes) -> tuple[bytes, bytes, tuple[int, int, int], LambdaConditionedWeights | None]:
    """Bodies of a function, its size, and the universal function of the file's model, which is taken to be `base`.

    Raises:
        FormatError: there is none, or it is larger than what is decoded here.
    """
    unpacked = unpack(data, allow_truncated=True)
    header, sections = unpacked.header, unpacked.sections
    if max(header.width, header.height) > SIDE or not {Section.WEIGHTS, Section.GRIDS} <= sections.keys():
        raise FormatError("no function, or a large one")
    if header.model:
        size = -(-header.height // DOWNSCALE), -(-header.width // DOWNSCALE), CHANNELS
        return sections[Section.WEIGHTS], sections[Section.GRIDS], size, universal_of(store.load("base"))
    size = header.height, header.width, header.channels
    return sections[Section.WEIGHTS], sections[Section.GRIDS], size, None


def latent(data: bytes) -> None:
    """The latent of a file of profile msp, without the network that runs in floats; its model is taken to be `tiny`."""
    with suppress(FormatError):
        unpacked = unpack(data, allow_truncated=True)
        header, transform = unpacked.header, on_device(store.load("tiny"), "cpu")
        head, stream = latent_bitstream.read_head(unpacked.sections.get(Section.GRIDS, b""))
        if max(header.width, header.height) > SIDE or head.position > transform.positions:
            return
        prior, size = transform.prior(head.preset, head.position), transform.size(header.height, header.width)
        for truncated in (False, True):
            with suppress(FormatError):
                symbols = latent_coding.decode(prior, stream, *size, truncated=truncated)
                assert symbols.shape == (*size, transform.channels)
                assert truncated or np.abs(symbols).max() <= LIMIT


def enhancement(data: bytes) -> None:
    """The enhancement layer of a file of profile msp, likewise; its model is taken to be `tinyenhanced`."""
    with suppress(FormatError):
        unpacked = unpack(data, allow_truncated=True)
        header, layer = unpacked.header, on_device(store.load("tinyenhanced"), torch.device("cpu")).enhancement
        assert layer is not None
        position, stream = latent_bitstream.read_enhancement(unpacked.sections.get(Section.ENHANCEMENT, b""))
        if max(header.width, header.height) > SIDE or position > layer.positions:
            return
        prior, size = layer.prior(position), layer.size(header.height, header.width)
        for truncated in (False, True):
            with suppress(FormatError):
                symbols = latent_coding.decode(prior, stream, *size, truncated=truncated)
                assert symbols.shape == (*size, layer.channels)


def latent_packets(data: bytes) -> None:
    """The packets of a file of profile msp, likewise, and what is expected in place of those that are lost."""
    with suppress(FormatError):
        unpacked = unpack(data, allow_truncated=True)
        header, transform = unpacked.header, on_device(store.load("tiny"), "cpu")
        if Section.PACKETS not in unpacked.sections or max(header.width, header.height) > SIDE:
            return
        found = latent_bitstream.PACKETS.of(unpacked)
        head, size = latent_bitstream.Head.of_packet(found.head), transform.size(header.height, header.width)
        if head.position > transform.positions:
            return
        prior, known = transform.prior(head.preset, head.position), np.zeros(size, bool)
        symbols = np.zeros((*size, transform.channels), np.int32)
        for number, stream in {**found.streams, **found.beginnings}.items():
            place = found.places[number]
            with suppress(FormatError):
                symbols[place] = latent_coding.decode(prior, stream, *known[place].shape, spacing=found.head.spacing)
                known[place] = True
            beginning = latent_coding.decode_beginning(prior, stream, *known[place].shape, spacing=found.head.spacing)
            assert beginning[0].shape == symbols[place].shape
        means = conceal(prior, symbols, known)
        assert np.array_equal(means[known], FRACTIONS * symbols[known])
        assert np.abs(means).max() <= FRACTIONS * LIMIT


def indices(data: bytes) -> None:
    """The packets of a file of profile vq and their indices; its model is taken to be `tinyvq`."""
    with suppress(FormatError):
        unpacked = unpack(data, allow_truncated=True)
        header, found = unpacked.header, PACKETS.of(unpacked)
        autoencoder = vector_quantised.on_device(store.load("tinyvq"), torch.device("cpu"))
        if max(header.width, header.height) > SIDE or found.head.coding >= len(autoencoder.sizes):
            return
        places = np.empty(autoencoder.size(header.height, header.width))
        arguments = autoencoder.prior, found.head.coding, found.head.spacing
        for streams, truncated in ((found.streams, False), ({**found.streams, **found.beginnings}, True)):
            for number, stream in streams.items():
                shape = places[found.places[number]].shape
                with suppress(FormatError):
                    decoded = index_coding.decode(*arguments, stream, *shape, truncated=truncated)
                    assert decoded.shape == shape
                    assert -truncated <= decoded.min() <= decoded.max() < autoencoder.sizes[found.head.coding]


def plugin(data: bytes) -> None:
    """All of it, as Pillow's users see it: of truncated files what there is."""
    with suppress(OSError, Image.DecompressionBombError), opened(data) as image:
        image.verify()
    with suppress(OSError, Image.DecompressionBombError), opened(data) as image, _truncated_images():
        if max(image.size) <= SIDE:
            image.load()
            assert len(image.tobytes()) == image.width * image.height * len(image.mode)


def opened(data: bytes) -> ImageFile.ImageFile:
    """Raises UnidentifiedImageError, an `OSError`, of what is no `.clric` file."""
    return Image.open(BytesIO(data), formats=[pillow_clric.ClricImageFile.format])


@contextmanager
def _truncated_images() -> Iterator[None]:
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def edited(data: bytes, section: Section | None, edit: Edit) -> bytes:
    """A file of which the body of a section, or else the header, was edited, with lengths and checksums that match.

    Raises:
        FormatError: it is no valid file before that.
        KeyError: it has no such section.
    """
    header = read_header(BytesIO(data))
    if section is None:
        head = edit(data[: header.size - 4])  # with the checksum of bodies, where there is one
        return head + crc32(head).to_bytes(4, "little") + data[header.size : header.file_size]
    sections = unpack(data).sections
    return pack(header, {**sections, section: edit(sections[section])})


# By name: the target, and the parts of a file that are worth editing for it.
TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[Section | None, ...]]] = {
    "container": (container, (None, Section.EXIF)),
    "weights": (function, (Section.WEIGHTS,)),
    "wavefront": (function, (Section.GRIDS,)),
    "latent": (latent, (Section.GRIDS,)),
    "enhancement": (enhancement, (Section.ENHANCEMENT,)),
    "latent_packets": (latent_packets, (None, Section.PACKETS)),
    "indices": (indices, (None, Section.GRIDS)),
    "plugin": (plugin, (None, Section.COLOUR, Section.WEIGHTS, Section.GRIDS, Section.PACKETS, Section.ENHANCEMENT)),
}
