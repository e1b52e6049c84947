"""Which program a file is of, by its first bytes, and the net in it."""

import json
from pathlib import Path

from alexnet.convert.foreign_net import ForeignNet
from alexnet.convert.from_caffe import caffe_net
from alexnet.convert.from_onnx import onnx_net
from alexnet.convert.from_torchvision import torchvision_net
from alexnet.convert.torch_file import read_safetensors_state, read_torch_state

_HEAD = 512  # bytes
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# The first fields of a message: its number and its type. ONNX writes its version first, Caffe the net's name, an input,
# or a layer.
_ONNX_TAG, _CAFFE_TAGS = b"\x08", (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")
_KNOWN = "a .pth or .safetensors of torchvision's AlexNet, a .caffemodel, or a .onnx of Caffe's AlexNet or CaffeNet"


def read_foreign_net(file: Path) -> ForeignNet:
    """Read a net from the file of another program. The file's contents tell the format, not its name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of no known format, is damaged, or holds another architecture.
    """
    if not file.is_file():
        kind = "a folder; name the file in it" if file.is_dir() else "no such file: check the path"
        raise FileNotFoundError(f"{file} must be a file with weights; there is {kind}")
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    try:
        if head.startswith(b"PK\x03\x04") or (
            head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        ):
            return torchvision_net(read_torch_state(file))
        if _is_safetensors(head, file):
            return torchvision_net(read_safetensors_state(file))
        if head.startswith(_ONNX_TAG):
            return onnx_net(file)
        if head.startswith(_CAFFE_TAGS):
            return caffe_net(file)
        raise ValueError(_describe_unknown(head))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _is_safetensors(head: bytes, file: Path) -> bool:
    """Return whether a file begins with a length of eight bytes, then JSON. A file that is cut off is one, too."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and (length < file.stat().st_size or file.suffix == ".safetensors")


def _describe_unknown(head: bytes) -> str:
    """Return what is wrong with a file of no known format."""
    if not head:
        return f"it must be {_KNOWN}; it is empty: get the file again"
    if head.startswith(b"version https://git-lfs"):
        return f"it must be {_KNOWN}; it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    archive = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), None)
    if archive or head[257:262] == b"ustar":
        return f"it must be {_KNOWN}; it is an archive ({archive or 'tar'}): unpack it and name the file in it"
    if head.startswith(b"\x89HDF"):
        return f"it must be {_KNOWN}; it is HDF5: save the net as a .caffemodel"
    return f"it must be {_KNOWN}; its first bytes are {json.dumps(head[:16].decode('latin-1'))}, of none of these"
