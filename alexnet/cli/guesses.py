"""What newcomers type, and what it is called here."""

import dataclasses
from collections.abc import Collection, Sequence

from alexnet.checked import suggest

_STORE = "STORE, an argument without a name before it"
_CLOSE = 0.7  # for options, of which there are many short ones: "bogus" and "hours" agree to 0.6
_RUN = "RUN, an argument without a name before it"

# By command: guesses, and what to use in their place. Fields of the recipe need no entry.
_GUESSES: dict[str, dict[str, str]] = {
    "train": {
        "--lr --lr0 --rate --eta": "--learning-rate",
        "--num-epochs --n-epochs --max-epochs --nepochs -e": "--epochs",
        "--bs --batchsize -b": "--batch-size",
        "--num-workers --threads --jobs -j": "--workers",
        "--gpu --gpus --cuda --cpu --accelerator": "--device, such as --device cpu or --device cuda:1",
        "--pretrained --weights --init --finetune --checkpoint --ckpt": "--from RUN, a run with trained weights, "
        "which `alexnet import` makes of a file of torchvision's or Caffe's",
        "--model --arch --architecture --net --network --config --cfg -c": "--recipe NAME, and `alexnet recipes`",
        "--data --dataset --data-dir --data-path --train --train-dir --input --images --store -d": _STORE,
        "--name --output --out --out-dir --output-dir --save --save-dir --run --run-name --project --logdir --log-dir "
        "--exp -o": _RUN,
        "--resume --continue": "the same command without it: it goes on where RUN stopped",
        "--weight-decay --wd": "--set decay=0.0005",
        "--dropout": "--set net.fc6.dropout=0.5 --set net.fc7.dropout=0.5",
        "--size --img-size --imgsz --img --resolution": "--set net.image_size=224; `alexnet prepare --size` is the "
        "side of the stored pictures",
        "--amp --fp16 --half --bf16 --fp32": "--set precision=bfloat16, float32 or auto",
        "--early-stopping --early-stop --stop-after": "--patience N",
        "--time --max-time --time-limit --minutes": "--hours H",
        "--scheduler --sched --lr-scheduler": "--set schedule=cosine",
        "--optimizer --opt --optim": "no such option: the only one is SGD with momentum (section 6)",
        "--val --val-split --validation-split --val-dir --test": "`alexnet prepare` with --held-out; train/ and val/ "
        "among the pictures are used as they are",
        "--classes --num-classes": "no such option: the classes are those of the pictures",
        "--augment --aug": "fields of the recipe: reflect, crops, crop_area, colour_deviation",
        "--distributed --ddp --nproc": "torchrun and --parallel: docs/clusters.md",
        "--smoothing": "--set label_smoothing=0.1",
        "--print-freq --log-interval --verbose -v": "no such option: the progress is on standard error",
    },
    "prepare": {
        "--val --val-split --validation-split --val-size --split": "--held-out SHARE",
        "--test-split --test-size": "--test SHARE",
        "--image-size --img-size --imgsz --resize": "--size",
        "--output --out --output-dir --out-dir -o": "STORE, the second argument",
        "--input --data --dataset --data-dir --images": "SOURCE, the first argument",
        "--format": "--encoding",
        "--num-workers --threads --jobs -j": "--workers",
    },
    "evaluate": {
        "--data --dataset --data-dir --images --store": _STORE,
        "--model --weights --checkpoint --ckpt --run": _RUN,
        "--tta --ten-crop --crops --augment": "--views 10",
        "--out --output": "--predictions FILE.csv, or --json",
        "--gpu --cuda --cpu": "--device",
        "--classes": "--per-class FILE.csv",
    },
    "predict": {
        "--model --weights --checkpoint --ckpt --run": _RUN,
        "--image --images --input --source --data --file --folder": "WHAT, an argument without a name before it",
        "--topk --top-k --top_k -k --k": "--top N",
        "--batch-size --bs": "--batch N",
        "--tta --ten-crop --crops --augment": "--views 10",
        "--gpu --cuda --cpu": "--device",
        "--output --out -o": "--csv, --json or --jsonl, which print on standard output",
    },
    "reproduce": {
        "--store --dataset --data-dir": "--data STORE",
        "--seed": "--seeds N, the number of seeds",
        "--output --out --output-dir --out-dir -o": "--folder",
        "--gpu --cuda --cpu": "--device",
    },
}

_COMMANDS = {
    "help": "`alexnet --help`, or `alexnet COMMAND --help`",
    "version": "`alexnet --version`",
    "fit learn start run": "train",
    "finetune fine-tune transfer": "train, with --from RUN",
    "resume continue": "train: the same command goes on where RUN stopped",
    "eval test validate val score": "evaluate",
    "infer inference classify detect label": "predict",
    "convert load": "import, or export",
    "search neighbours neighbors": "similar",
    "plot": "figures",
    "list ls models": "recipes",
    "init prep dataset": "prepare",
    "inspect show view": "look",
}


def suggest_option(program: str, name: str, options: Collection[str]) -> str:
    """Return what to use in place of an option that a command does not have.

    Args:
        program: The command, such as "alexnet train".
        name: The option, such as "--lr".
        options: The options of the command.
    """
    command = program.rpartition(" ")[2]
    dashed = name.replace("_", "-")
    if dashed in options:
        return f"use {dashed}"
    if guess := _find(_GUESSES.get(command, {}), dashed):
        return guess if guess.startswith("no such") else f"use {guess}"
    if command == "train" and (field := _recipe_field(name.lstrip("-").replace("-", "_"))):
        return f"use --set {field}=VALUE"
    close = suggest(dashed.lstrip("-"), [option.lstrip("-") for option in options if option.startswith("--")], _CLOSE)
    return close.replace(": did you mean ", "did you mean --") or f"see `{program} --help`"


def suggest_command(name: str, commands: Sequence[str]) -> str:
    """Return what to use in place of a command that there is not."""
    guess = _find(_COMMANDS, name) or suggest(name, commands).removeprefix(": ")
    return f"{guess if guess.startswith('did you') else f'use {guess}'}" if guess else "see `alexnet --help`"


def _find(table: dict[str, str], word: str) -> str | None:
    """Return the entry of a table whose words, with spaces between them, have this one."""
    return next((entry for words, entry in table.items() if word in words.split()), None)


def _recipe_field(name: str) -> str | None:
    """Return a field of this name as --set takes it: the recipe's own, or its net's."""
    from alexnet.architecture import Net
    from alexnet.recipe import Recipe

    for prefix, kind in (("", Recipe), ("net.", Net)):
        if name in {field.name for field in dataclasses.fields(kind)}:
            return prefix + name
    return None
