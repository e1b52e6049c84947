"""torchrun for tests that restart many processes: it forks them from one process that has imported their modules.

`python forking_torchrun.py PROCESSES RESTARTS MODULE[,MODULE...] ARGUMENT...` does what
`torchrun --standalone --nproc-per-node PROCESSES --max-restarts RESTARTS -m MODULE ARGUMENT...` does, but calls the
function `main` of the last module. Each process would otherwise import torch anew, for two seconds.
"""

import atexit
import importlib
import logging
import multiprocessing
import sys
import uuid


def run_main(module: str, arguments: list[str]) -> None:
    """Call `main` of a module, and end the process as a script would."""
    try:
        importlib.import_module(module).main(arguments)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def main() -> None:
    """Start the processes, and restart them if one fails."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # to log an exception, torch imports its compiler, for four seconds
    processes, restarts, names, *arguments = sys.argv[1:]
    modules = names.split(",")
    multiprocessing.set_forkserver_preload(modules)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(processes),
        max_restarts=int(restarts),
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
    )
    elastic_launch(config, run_main)(modules[-1], arguments)


if __name__ == "__main__":
    main()
