"""Which program a file is of, by its first bytes, and the net in it."""

import json
from pathlib import Path

from alexnet.convert.external_net import ExternalNet
from alexnet.convert.from_caffe import caffe_net
from alexnet.convert.from_onnx import onnx_net
from alexnet.convert.from_torchvision import torchvision_net
from alexnet.convert.torch_file import is_safetensors, read_safetensors_state, read_torch_state

_HEAD = 512  # bytes
_TORCH_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip archive; a pickle
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# The first fields of a message: its number and its type. ONNX writes its version first, Caffe the net's name, an input,
# or a layer.
_ONNX_TAG, _CAFFE_TAGS = b"\x08", (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")
_KNOWN = "a .pth or .safetensors of torchvision's AlexNet, a .caffemodel, or a .onnx of Caffe's AlexNet or CaffeNet"


def read_external_net(file: Path) -> ExternalNet:
    """Read a net from the file of another program. The file's contents tell the format, not its name.

    Raises:
        ValueError: It is of no known format, is damaged, or holds another architecture.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    if head.startswith(_TORCH_HEADS):
        return torchvision_net(read_torch_state(file))
    if is_safetensors(file):
        return torchvision_net(read_safetensors_state(file))
    if head.startswith(_ONNX_TAG):
        return onnx_net(file)
    if head.startswith(_CAFFE_TAGS):
        return caffe_net(file)
    raise ValueError(f"it must be {_KNOWN}; {_describe_unknown(head)}")


def _describe_unknown(head: bytes) -> str:
    """Return what a file of no known format is, by its first bytes, and what to do."""
    if not head:
        return "it is empty: get the file again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    archive = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), None)
    if archive or head[257:262] == b"ustar":
        return f"it is an archive ({archive or 'tar'}): unpack it and name the file in it"
    if head.startswith(b"\x89HDF"):
        return "it is HDF5: save the net as a .caffemodel"
    return f"its first bytes are {json.dumps(head[:16].decode('latin-1'))}, of none of these"
