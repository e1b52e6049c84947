"""Kill each command at each of its file operations, and let each operation fail; check what is left.

    python tests/faulty_disk/kills.py --seconds 3600

First each operation of each command once (killed, killed after half of a write, and each error); then chains of kills
at random operations until the time is over. With TMPDIR=/dev/shm nothing waits for the disk. The figures are
in docs/LOG.md.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from harness import COMMANDS, FaultyDisk  # noqa: E402

ERRORS = {"ENOSPC": True, "EDQUOT": True, "EROFS": True, "EIO": False}
KINDS = ("kill", "tear", *ERRORS, "chains")


def main() -> int:
    """Run the checks, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="time for the checks; no new one begins after it")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="check each N-th operation only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    problems = 0
    with tempfile.TemporaryDirectory() as folder, FaultyDisk(Path(folder), options.commands) as disk:
        end = time.monotonic() + options.seconds  # without the start, which takes minutes on a busy machine
        for kind in (kind for kind in options.kinds if kind != "chains"):
            for command in options.commands:
                operations = disk.operations(command, kind)
                passed, failed, kills = 0, 0, disk.kills
                for n in range(1, operations + 1, options.every):
                    if time.monotonic() > end:
                        break
                    try:
                        if kind in ERRORS:
                            disk.check_failure(command, n, kind, lasts=ERRORS[kind])
                        else:
                            disk.check_kill(command, [n], kind)
                        passed += 1
                    except AssertionError as error:
                        failed += 1
                        print(f"PROBLEM {error}", flush=True)
                problems += failed
                figures = f"{operations:4} operations: {passed} passed, {failed} failed, {disk.kills - kills} kills"
                print(f"{kind:8} {command:13} {figures}", flush=True)
        chooser, chains = random.Random(options.seed), 0
        while time.monotonic() < end and "chains" in options.kinds:
            command = chooser.choice(options.commands)
            operations = disk.operations(command, "kill")
            numbers = [chooser.randint(1, operations) for _ in range(chooser.randint(2, 6))]
            try:
                disk.check_kill(command, numbers)
                chains += 1
            except AssertionError as error:
                problems += 1
                print(f"PROBLEM {error}", flush=True)
        print(f"{disk.kills} kills, {chains} chains of them; {disk.failures} failures; {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
