"""Pillow plugin for `.clric`, a learned image format: photos at a fraction of their JPEG size.

Importing this package registers the format, and imports neither numpy nor torch: they are imported when pixels are
coded. Processes that are spawned (not forked) must import it again, in a DataLoader's `worker_init_fn` for instance.

    import pillow_clric
    from PIL import Image

    Image.open("photo.png").save("photo.clric", quality=60)
    Image.open("photo.clric").show()
"""

from codec import BatchError, repair, verify
from codec.autoencoders.errors import ModelError
from codec.container import CorruptError, DamageWarning, FormatError, LimitError, TruncatedError, UnsupportedError
from pillow_clric._api import FileInfo, decode, encode, encode_batch, info
from pillow_clric._losses import LossWarning
from pillow_clric._plugin import ClricImageFile, register_clric_opener

__all__ = [
    "BatchError",
    "ClricImageFile",
    "CorruptError",
    "DamageWarning",
    "FileInfo",
    "FormatError",
    "LimitError",
    "LossWarning",
    "ModelError",
    "TruncatedError",
    "UnsupportedError",
    "__version__",
    "decode",
    "encode",
    "encode_batch",
    "info",
    "register_clric_opener",
    "repair",
    "verify",
]

__version__ = "0.1.0"

register_clric_opener()
