"""Many trainings: `python -m aasist_lib.studies --help`."""

import argparse
import sys
from pathlib import Path

from aasist_lib.base import paths
from aasist_lib.base.errors import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status of `errors.exit_status`."""
    parser = argparse.ArgumentParser(prog="python -m aasist_lib.studies", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("select", help="train candidates with attacks and sources left out in turn")
    command.add_argument("--candidates", type=Path, help="in place of experiments/selection.yaml")
    command.add_argument("--workers", type=int, default=2, help="processes (2)")
    command = commands.add_parser("leaderboard", help="train and measure the systems of experiments/leaderboard.yaml")
    command.add_argument("--systems", type=Path, help="another file of systems")
    command.add_argument("--workers", type=int, default=2, help="processes (2)")
    command.add_argument("--again", action="store_true", help="train all anew, whatever is done")
    command = commands.add_parser("tune", help="search for better settings as experiments/tune.yaml says")
    command.add_argument("--space", type=Path, metavar="FILE", help="another file of settings to search")
    command.add_argument("--trials", type=int, metavar="N", help="in place of what the file says")
    command.add_argument("--workers", type=int, default=2, help="processes (2)")
    given = parser.parse_args(arguments)
    return exit_status(lambda: print(_run(given)) or 0)


def _run(given: argparse.Namespace) -> str:
    match given.command:
        case "select":
            from aasist_lib.studies import selection

            return selection.command(paths.root(), given.workers, given.candidates)
        case "leaderboard":
            from aasist_lib.studies import leaderboard

            return leaderboard.command(paths.root(), given.workers, given.systems, given.again)
        case _:
            from aasist_lib.studies import tuning

            return tuning.command(paths.root(), given.workers, given.space, given.trials)


if __name__ == "__main__":
    sys.exit(main())
