"""Names the files that are not checkpoints of torch or safetensors, by their first bytes and their names, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

MAGIC: Final = 512
"""How many of a file's first bytes are looked at."""
LEGACY: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What torch.save wrote first before version 1.6, and writes with ``_use_new_zipfile_serialization=False``."""
NEITHER: Final = "neither safetensors nor a file that torch.save wrote"
_PULL: Final = "is a Git LFS pointer and holds no weights; run 'git lfs pull' in its folder"
_PAGE: Final = "is a text or a web page, not weights: a download that failed; download it again"
_UNPACK: Final = "unpack it, and scan what is in it"
_ORIGINAL: Final = "scan the PyTorch checkpoint that it was made from"
_LOAD: Final = "load it with transformers (from_tf=True or from_flax=True), and save_pretrained it"
_GGUF: Final = f"is a GGUF file of llama.cpp; {_ORIGINAL}"
_HDF5: Final = f"is an HDF5 file of TensorFlow or Keras; {_LOAD}"
_LITE: Final = f"is a TensorFlow Lite file; {_ORIGINAL}"
_EXECUTORCH: Final = f"is an ExecuTorch program; {_ORIGINAL}"
_ONNX: Final = f"is an ONNX model; {_ORIGINAL}"
_NPZ: Final = "is a NumPy archive; load it with numpy.load, and save it with safetensors.numpy.save_file"
_FIRST_BYTES: Final[tuple[tuple[str, str], ...]] = (
    (r"version https://git-lfs", _PULL),
    (r"GGUF", _GGUF),
    (r"lmgg|fmgg|tjgg|algg", f"is a GGML file of llama.cpp or whisper.cpp; {_ORIGINAL}"),
    (r"\x89HDF\r\n", _HDF5),
    (r"\x93NUMPY", "is a NumPy array; save it with safetensors.numpy.save_file"),
    (r"\x1f\x8b|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|\x04\x22\x4d\x18", f"is compressed; {_UNPACK}"),
    (r".{257}ustar", f"is a tar archive; {_UNPACK}"),
    (r".{4}TFL3", _LITE),
    (r".{4}ET\d\d", _EXECUTORCH),
    (r"[\x01-\x20]\0\0\0.{2}[A-Za-z0-9]{1,60}Spec\0", f"is a CTranslate2 model; {_ORIGINAL}"),
    (
        r"\x08[\x01-\x20][\x12\x1a\x22\x3a].{0,60}(?:pytorch|onnx|tf2|keras|skl|main|torch)",
        _ONNX,
    ),
    (r"[\s\xef\xbb\xbf]*<(?:!doctype|html|\?xml|head|body|error)", _PAGE),
    (
        r"\s*(?:(?:entry |repository )?not found|invalid (?:user|cred)|access (?:to|denied)|\{\s*\"(?:error|message)\")",
        _PAGE,
    ),
)
_NAMES: Final[tuple[tuple[str, str], ...]] = (
    (r"\.onnx(?:[._]data)?$", _ONNX),
    (r"\.gguf$", _GGUF),
    (r"\.msgpack$", f"is a Flax checkpoint; {_LOAD}"),
    (r"(?:^|[._])ocdbt$|^_CHECKPOINT_METADATA$", "is an Orbax checkpoint of JAX; load it there, and save it as safetensors"),
    (r"\.(?:h5|hdf5|keras)$", _HDF5),
    (r"\.ckpt(?:-\d+)?\.(?:index|meta|data-\d+-of-\d+)$|\.data-\d{5}-of-\d{5}$|\.index$", f"is a TensorFlow checkpoint; {_LOAD}"),
    (r"\.pb$", f"is a TensorFlow graph; {_LOAD}"),
    (r"\.tflite$", _LITE),
    (r"\.npz$", _NPZ),
    (r"\.(?:engine|plan|trt)$", f"is a TensorRT engine; {_ORIGINAL}"),
    (r"\.(?:mlmodel|mlpackage|mlmodelc)$", f"is a Core ML model; {_ORIGINAL}"),
    (r"\.pte$", _EXECUTORCH),
    (r"\.(?:gz|tgz|xz|bz2|zst|7z|rar|tar|zip)$", f"is an archive; {_UNPACK}"),
)  # fmt: skip
_FIRST: Final = tuple((re.compile(p.encode(), re.I | re.S), what) for p, what in _FIRST_BYTES)
_NAMED: Final = tuple((re.compile(p, re.I), what) for p, what in _NAMES)


def foreign(magic: bytes, path: PurePath) -> str | None:
    """What a file is that is not a checkpoint of torch or safetensors, and what to do; None if that is not known.

    Args:
        magic: Its first bytes, `MAGIC` of them if it has so many.
        path: Its path.

    >>> foreign(b"GGUF" + bytes(8), PurePath("model.bin"))
    'model.bin is a GGUF file of llama.cpp; scan the PyTorch checkpoint that it was made from'
    """
    if not magic:
        return f"{path} is empty; was the download cut off?"
    for pattern, what in _FIRST:
        if pattern.match(magic):
            return f"{path} {what}"
    by_name = foreign_name([path.name])
    if by_name is not None:
        return f"{path} {by_name[1]}"
    if magic[:1] == b"\x80":
        return f"{path} is a bare pickle, which could run code: it is not read; save the weights as safetensors"
    return None


def foreign_name(names: Iterable[str]) -> tuple[str, str] | None:
    """The first of some names of files that is of a known format of others, and what that is."""
    for name in names:
        for pattern, what in _NAMED:
            if pattern.search(name):
                return name, what
    return None


def foreign_archive(names: Iterable[str]) -> str:
    """What a zip file is that torch.save did not write, by the names in it, and what to do."""
    inside = list(names)[:10_000]
    if inside and all(name.endswith(".npy") for name in inside):
        return f"it {_NPZ}"
    if any(name.endswith(("model.weights.h5", "variables.h5")) for name in inside):
        return f"it is a Keras model; {_LOAD}"
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")) for name in inside):
        return f"checkpoints are packed in it: {_UNPACK}"
    return "name a checkpoint's file"
