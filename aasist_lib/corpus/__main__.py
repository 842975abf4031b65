"""`python -m aasist_lib.corpus build [FOLDER]`: assembles the default corpus with the settings of params.yaml."""

import argparse
import sys
from pathlib import Path

from aasist_lib.base import paths
from aasist_lib.base.errors import exit_status


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m aasist_lib.corpus", description=__doc__)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("folder", nargs="?", default="corpus", type=Path)
    arguments = parser.parse_args()
    return exit_status(lambda: _build(arguments.folder), "corpus")


def _build(folder: Path) -> int:
    try:
        from aasist_lib import params

        from .build import WORK, build

        settings = params.read("corpus")
        WORK.parent.mkdir(parents=True, exist_ok=True)
        with paths.alone(WORK.with_suffix(".lock")):
            build(folder, settings["profile"], settings["workers"])
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
