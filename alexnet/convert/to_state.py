"""A net's weights as a safetensors file with plain names, for `load_state_dict` of any torch module."""

import json

from safetensors.torch import save
from torch import Tensor

from alexnet.convert.plain_net import PlainNet
from alexnet.models.alexnet import AlexNet
from alexnet.utils.checksums import sealed_header, with_checksums


def to_state(net: AlexNet, mean: Tensor, description: str) -> bytes:
    """Return the contents of a safetensors file: "mean", "conv1.weight", "conv1.bias" and so on.

    Args:
        net: The net.
        mean: (3, side, side), the mean activity of the crops.
        description: What to store as the metadata "alexnet".
    """
    tensors = {name: tensor.contiguous() for name, tensor in PlainNet(net, mean).state_dict().items()}
    metadata = with_checksums(json.loads(description), tensors)
    return sealed_header(save(tensors, {"alexnet": json.dumps(metadata, ensure_ascii=False)}))
