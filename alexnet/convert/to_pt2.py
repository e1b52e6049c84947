"""A net as a program of torch.export, which loads without this package."""

import io
import zipfile

import torch
from torch import Tensor

from alexnet.convert.plain_net import PlainNet
from alexnet.models.alexnet import AlexNet
from alexnet.utils.checksums import BLANK_CHECKSUM


def to_pt2(net: AlexNet, mean: Tensor, description: str) -> bytes:
    """Return the contents of a file that `torch.export.load` reads.

    The program computes logits (N, classes) from pixels (N, 3, side, side), RGB in 0..255.

    Args:
        net: The net, in evaluation mode.
        mean: (3, side, side), the mean activity of the crops.
        description: What to store as the extra file "alexnet".

    Returns:
        The contents, with room for their checksum.
    """
    side = net.net.image_size
    pixels = torch.zeros(2, 3, side, side)  # of one picture, torch would take the batch for a constant
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(PlainNet(net, mean).eval(), (pixels,), dynamic_shapes=({0: batch},))
    operations = {str(node.target) for node in program.graph.nodes}
    assert not any(operation.startswith("alexnet") for operation in operations), operations
    contents = io.BytesIO()
    torch.export.save(program, contents, extra_files={"alexnet": description})
    with zipfile.ZipFile(contents, "a") as archive:  # the format is a zip archive, whose comment torch does not read
        archive.comment = BLANK_CHECKSUM.encode()
    return contents.getvalue()
