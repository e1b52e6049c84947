"""The recipes that fine-tune the net of another run: a new output layer, and perhaps the layers before it.

They depend on the other run's net, which `alexnet train --from` gives them.
"""

from collections.abc import Callable
from dataclasses import replace

from alexnet.architecture import Conv, Full, Net
from alexnet.recipe import Recipe


def photos_finetune(origin: Recipe | None = None) -> Recipe:
    """A new output layer on a trained net, for a few hundred or thousand pictures of your own.

        alexnet import alexnet-owt-7be5be79.pth runs/imported
        alexnet train stores/mine runs/mine --from runs/imported

    Expected: 17.0 +- 0.3 % on Caltech-101 with 30 training pictures per class and ten views, from torchvision's
    convolutions (three seeds).
    Duration: 2 minutes for 3,030 pictures, from the folder to the report (two cores).

    Args:
        origin: The recipe of the run to start from; by default, one with the convolutions of torchvision's AlexNet.
    """
    origin = origin or Recipe(net=_torchvision_convolutions())
    net = _with_new_output(origin.net)
    return Recipe(
        net=net,
        store_size=origin.store_size,
        mean="start",
        frozen=tuple(name for name in net.layers() if name != "fc8"),
        augmentations=4,
        batch_size=64,
        learning_rate=0.001,
        schedule="cosine",
        epochs=24,
    )


def _with_new_output(net: Net) -> Net:
    """Return a net with an output layer that starts at zero, directly on the last hidden layer, or on the last maps."""
    output = Full(deviation=0.0)
    if net.hidden():
        return replace(net, linear=None, fc8=output, start="gaussian")
    return replace(net, linear=None, fc8=output, start="gaussian", conv_dropout=0.5, dropout_scaling="train")


def _torchvision_convolutions() -> Net:
    """Return the net of an imported run with the convolutions of torchvision's AlexNet."""
    return Net(
        towers=1,
        conv1=Conv(
            maps=64, kernel=11, stride=4, padding=2, then=("activate", "pool"), rounding="down", pool_rounding="down"
        ),
        conv2=Conv(maps=192, kernel=5, padding=2, then=("activate", "pool"), pool_rounding="down"),
        conv3=Conv(maps=384),
        conv4=Conv(maps=256),
        conv5=Conv(maps=256, then=("activate", "pool"), pool_rounding="down"),
        fc6=None,
        fc7=None,
        normalise=None,
        dropout_scaling="train",
        start="he",
        pixel_scale=3 / (255 * (0.229 + 0.224 + 0.225)),  # the mean of the deviations that torchvision divides by
    )


FINETUNING_RECIPES: dict[str, Callable[..., Recipe]] = {"photos-finetune": photos_finetune}
