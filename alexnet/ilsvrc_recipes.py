"""The recipes for ImageNet: the paper's text, and what the authors' program did in 2012, run by run.

Errors are top-1 / top-5 errors. None of these nets has been trained here.
"""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

from alexnet.architecture import Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.net_variants import (
    one_gpu_net,
    separate_towers,
    with_conv6,
    without_normalisation,
    without_overlapping_pooling,
)
from alexnet.recipe import Change, Recipe


def alexnet_2012_paper() -> Recipe:
    """The paper's text to the letter, for ILSVRC: two towers, 90 epochs, the rate divided by ten on plateaus.

        alexnet train stores/ilsvrc2012 runs/paper --recipe alexnet-2012-paper

    Expected: the paper reports 40.7 / 18.2 % on the validation set with ten views (Table 2, "1 CNN"). Not trained here.
    Duration: 92 pictures per second, so 3.6 hours per epoch of 1.2 million pictures.
    """
    return Recipe()


def alexnet_2012_run() -> Recipe:
    """What the authors' program did for ILSVRC-2012, its net 145.

        alexnet train stores/ilsvrc2012 runs/run --recipe alexnet-2012-run

    Expected: 40.7 / 18.2 % on the validation set with ten views (Table 2, "1 CNN"). Not trained here.
    Duration: as alexnet-2012-paper.

    Differences from the text: alpha is divided by the size of the window; layer 1 normalises and pools before its ReLU;
    layer 2 has a second normalisation within maps; the weights of conv3 to conv5 start with deviation 0.03; the biases'
    rate is 0.02 throughout; pictures are divided by 1.1 after the colour shift; the rates change at fixed epochs, that
    of conv1 at its own.
    """
    net = Net(
        conv1=Conv(maps=96, kernel=11, stride=4, padding=0, then=("normalise", "pool", "activate")),
        conv2=Conv(maps=256, kernel=5, padding=2, bias=1.0, then=("activate", "normalise", "normalise_map", "pool")),
        conv3=Conv(maps=384, all_towers=True, deviation=0.03),
        conv4=Conv(maps=384, bias=1.0, deviation=0.03),
        conv5=Conv(maps=256, bias=1.0, deviation=0.03, then=("activate", "pool")),
        normalise=ResponseNorm(alpha_over_size=True),
        normalise_map=MapNorm(),
    )
    return _program_recipe(net, falls=(25, 51), conv1_low=67, conv1_frozen=72, others_low=79, epochs=91)


def _program_recipe(
    net: Net, *, falls: tuple[int, int], conv1_low: int | None, conv1_frozen: int, others_low: int | None, epochs: int
) -> Recipe:
    """Return how the authors' program trained a net, given the epochs at which it changed the rates.

    Args:
        net: The net to train.
        falls: Epochs at which all rates fell to 0.001 and to 0.0001.
        conv1_low: Epoch at which conv1's rate fell to 0.00001 and the colour shift ended; None for never.
        conv1_frozen: Epoch from which conv1 did not change.
        others_low: Epoch at which the rate of all other layers fell to 0.00001; None for never.
        epochs: Epochs in all.
    """
    others = tuple(name for name in net.layers() if name != "conv1")
    changes = [
        Change(epoch=falls[0], learning_rate=0.001),
        Change(epoch=falls[1], learning_rate=0.0001),
    ]
    if conv1_low is not None:
        changes.append(Change(epoch=conv1_low, learning_rate=0.00001, layers=("conv1",), colour_shift=False))
    changes.append(Change(epoch=conv1_frozen, learning_rate=0.0, layers=("conv1",)))
    if others_low is not None:
        changes.append(Change(epoch=others_low, learning_rate=0.00001, layers=others))
    return Recipe(
        net=net, bias_rate=0.02, colour_divisor=1.1, schedule="changes", changes=tuple(changes), epochs=epochs
    )


def alexnet_2012_run_2010() -> Recipe:
    """What the authors' program did for ILSVRC-2010, its net 145.

        alexnet train stores/ilsvrc2010 runs/run-2010 --recipe alexnet-2012-run-2010

    Expected: 37.5 / 17.0 % on the test set with ten views, 39.0 / 18.3 % with one (Table 1). Not trained here.
    Duration: as alexnet-2012-paper.
    """
    return _program_recipe(
        alexnet_2012_run().net, falls=(23, 51), conv1_low=68, conv1_frozen=72, others_low=78, epochs=93
    )


def alexnet_2012_half() -> Recipe:
    """The net of section 4.2 for one GPU, for ILSVRC-2010: the program's 145-half.

        alexnet train stores/ilsvrc2010 runs/half --recipe alexnet-2012-half

    Expected: 39.2 / 18.2 % on the test set with ten views. Not trained here.
    """
    net = one_gpu_net(alexnet_2012_run().net)
    return _program_recipe(net, falls=(20, 48), conv1_low=66, conv1_frozen=72, others_low=None, epochs=96)


def alexnet_2012_run_longer() -> Recipe:
    """The program's net 145, trained on after its end: its rate is raised again after epoch 91.

        alexnet train stores/ilsvrc2012 runs/longer --recipe alexnet-2012-run-longer

    Expected: 40.3 / 18.0 % on the validation set with ten views. Not trained here.
    Duration: one and a half times that of alexnet-2012-run, whose 91 epochs are the first of these 135.
    """
    recipe = alexnet_2012_run()
    others = tuple(name for name in recipe.net.layers() if name != "conv1")  # conv1 stays frozen
    more = (
        Change(epoch=91, learning_rate=0.001, layers=others, colour_shift=True),
        Change(epoch=107, learning_rate=0.0001, layers=others),
        Change(epoch=124, learning_rate=0.00001, layers=others, colour_shift=False),
    )
    return replace(recipe, changes=(*recipe.changes, *more), epochs=135)


def alexnet_2012_no_overlap() -> Recipe:
    """The net of section 4.4 whose pooling windows do not overlap, for ILSVRC-2012: the program's 147.

        alexnet train stores/ilsvrc2012 runs/no-overlap --recipe alexnet-2012-no-overlap

    Expected: 41.1 / 18.5 % on the validation set with ten views. Not trained here.
    """
    net = without_overlapping_pooling(alexnet_2012_run().net)
    return _program_recipe(net, falls=(23, 51), conv1_low=None, conv1_frozen=79, others_low=79, epochs=90)


def alexnet_2012_no_normalisation() -> Recipe:
    """The net of section 4.3 without normalisation, for ILSVRC-2012: the program's 148.

        alexnet train stores/ilsvrc2012 runs/no-normalisation --recipe alexnet-2012-no-normalisation

    Expected: 42.0 / 19.4 % on the validation set with ten views. Not trained here.
    """
    net = without_normalisation(alexnet_2012_run().net)
    return _program_recipe(net, falls=(22, 44), conv1_low=69, conv1_frozen=73, others_low=86, epochs=97)


def alexnet_2012_separate_towers() -> Recipe:
    """The net whose towers do not meet in conv3, for ILSVRC-2012: the program's 150.

        alexnet train stores/ilsvrc2012 runs/separate-towers --recipe alexnet-2012-separate-towers

    Expected: 41.8 / 19.3 % on the validation set with ten views. Not trained here.
    """
    net = separate_towers(alexnet_2012_run().net)
    return _program_recipe(net, falls=(25, 49), conv1_low=66, conv1_frozen=72, others_low=79, epochs=92)


def _pretraining(*, low: float, epochs: int) -> Recipe:
    """Return what the two pre-trainings of net 146 share.

    The layers that are trained already have a low rate, and a linear layer precedes fc8.

    Args:
        low: Epoch at which the rate of all layers falls to 0.001.
        epochs: Epochs in all.
    """
    net = replace(with_conv6(alexnet_2012_run().net), linear=Full(units=2048))
    pretrained = tuple(f"conv{n}" for n in range(1, 6))
    changes = (Change(epoch=0, learning_rate=0.001, layers=pretrained), Change(epoch=low, learning_rate=0.001))
    return replace(alexnet_2012_run(), net=net, changes=changes, epochs=epochs)


def alexnet_2012_fall2009() -> Recipe:
    """First pre-training of net 146, on the 10,184 classes of Fall 2009, from a run of alexnet-2012-run.

        alexnet train stores/fall2009 runs/fall2009 --recipe alexnet-2012-fall2009 --from runs/run

    Expected: 67.4 / 40.9 % if half of the pictures are held out for test (7, with the same net). Not trained here.
    Duration: 8.9 million pictures per epoch; the program stopped after 6.6 of these seven epochs.
    """
    return _pretraining(low=2.2, epochs=7)


def alexnet_2012_fall2011() -> Recipe:
    """Second pre-training of net 146, on the 22 thousand classes of Fall 2011, from a run of alexnet-2012-fall2009.

        alexnet train stores/fall2011 runs/fall2011 --recipe alexnet-2012-fall2011 --from runs/fall2009

    Expected: not known. Not trained here.
    Duration: 15 million pictures per epoch; the program stopped after 8.1 epochs.
    """
    recipe = _pretraining(low=6.0, epochs=8)
    first, second = recipe.changes
    return replace(recipe, changes=(replace(first, layers=(*first.layers, "conv6")), second))


def _finetuning(*, conv1_low: int, conv1_frozen: int, fc8_low: int | None, epochs: int) -> Recipe:
    """Return what the two fine-tunings of net 146 on ILSVRC-2012 share.

    Args:
        conv1_low: Epoch at which conv1's rate fell from 0.0001 to 0.00001.
        conv1_frozen: Epoch from which conv1 did not change.
        fc8_low: Epoch at which fc8's rate fell from 0.01 to 0.001; None if it had 0.001 from the start.
        epochs: Epochs in all.
    """
    net = with_conv6(alexnet_2012_run().net)
    others = tuple(name for name in net.layers() if name != "conv1")
    changes = [
        Change(epoch=0, learning_rate=0.001),
        Change(epoch=0, learning_rate=0.0001, layers=("conv1",)),
        Change(epoch=conv1_low, learning_rate=0.00001, layers=("conv1",)),
        Change(epoch=conv1_frozen, learning_rate=0.0, layers=("conv1",)),
        Change(epoch=22, learning_rate=0.0001, layers=others),
        Change(epoch=38, colour_shift=False),
        Change(epoch=42, learning_rate=0.00001, layers=others),
    ]
    if fc8_low is not None:
        changes += [
            Change(epoch=0.03, learning_rate=0.01, layers=("fc8",)),  # from batch 300 of some ten thousand
            Change(epoch=fc8_low, learning_rate=0.001, layers=("fc8",)),
        ]
    changes.sort(key=attrgetter("epoch"))
    return replace(alexnet_2012_run(), net=net, changes=tuple(changes), epochs=epochs)


def alexnet_2012_finetune() -> Recipe:
    """Fine-tuning of net 146 on ILSVRC-2012, from a run of alexnet-2012-fall2011.

        alexnet train stores/ilsvrc2012 runs/finetune --recipe alexnet-2012-finetune --from runs/fall2011

    Expected: 39.0 / 16.6 % on the validation set with ten views (Table 2, "1 CNN*"). Not trained here.
    """
    return _finetuning(conv1_low=5, conv1_frozen=7, fc8_low=9, epochs=54)


def alexnet_2012_finetune_fall2009() -> Recipe:
    """Fine-tuning of net 146 on ILSVRC-2012 after Fall 2009 alone, from a run of alexnet-2012-fall2009.

        alexnet train stores/ilsvrc2012 runs/finetune --recipe alexnet-2012-finetune-fall2009 --from runs/fall2009

    Expected: 39.1 / 16.9 % on the validation set with ten views. Not trained here.
    """
    return _finetuning(conv1_low=3, conv1_frozen=4, fc8_low=None, epochs=52)


ILSVRC_RECIPES: dict[str, Callable[[], Recipe]] = {
    "alexnet-2012-paper": alexnet_2012_paper,
    "alexnet-2012-run": alexnet_2012_run,
    "alexnet-2012-run-longer": alexnet_2012_run_longer,
    "alexnet-2012-run-2010": alexnet_2012_run_2010,
    "alexnet-2012-half": alexnet_2012_half,
    "alexnet-2012-no-overlap": alexnet_2012_no_overlap,
    "alexnet-2012-no-normalisation": alexnet_2012_no_normalisation,
    "alexnet-2012-separate-towers": alexnet_2012_separate_towers,
    "alexnet-2012-fall2009": alexnet_2012_fall2009,
    "alexnet-2012-fall2011": alexnet_2012_fall2011,
    "alexnet-2012-finetune": alexnet_2012_finetune,
    "alexnet-2012-finetune-fall2009": alexnet_2012_finetune_fall2009,
}

# The recipes whose nets start from a trained one, and the recipe of that one.
ORIGINS = {
    "alexnet-2012-fall2009": "alexnet-2012-run",
    "alexnet-2012-fall2011": "alexnet-2012-fall2009",
    "alexnet-2012-finetune": "alexnet-2012-fall2011",
    "alexnet-2012-finetune-fall2009": "alexnet-2012-fall2009",
}
