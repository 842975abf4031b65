"""Commands of the pipeline: `python -m aasist_lib.pipeline --help`."""

import argparse
import os
import sys
from pathlib import Path

from aasist_lib.base import paths
from aasist_lib.base.errors import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status, 1 if a stage fails or results differ, else as `exit_status`."""
    parser = argparse.ArgumentParser(prog="python -m aasist_lib.pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("check", help="check params.yaml")
    command = commands.add_parser("run", help="run a stage's notebook from build/nb/ into runs/")
    command.add_argument("stage", help="for example 20_train")
    commands.add_parser("sources", help="write build/nb and build/code: notebooks without outputs, hashes of code")
    commands.add_parser("strip", help="take the outputs out of notebooks/")
    command = commands.add_parser("report", help="write reports/ from runs/ and metrics/")
    command = commands.add_parser("readme", help="write the table of metrics into README.md")
    command.add_argument("--check", action="store_true", help="only say whether it is current")
    command = commands.add_parser("plots-page", help="write the page that `dvc plots show` fills, for reading offline")
    command = commands.add_parser("quick", help="the whole pipeline on the tiny corpus, in a folder of its own")
    command.add_argument("folder", nargs="?", type=Path, default=Path("build/quick"))
    command = commands.add_parser("compare", help="two runs side by side, as markdown for a pull request")
    command.add_argument("a", nargs="?", default="HEAD", help="commit, branch, tag or experiment (HEAD)")
    command.add_argument("b", nargs="?", default="workspace", help="the newer one; the working tree by default")
    command.add_argument("--output", type=Path, help="write a file instead of the terminal")
    command = commands.add_parser("verify", help="whether the results here are those of a commit, to the byte")
    command.add_argument("commit", nargs="?", default="HEAD", help="or branch, tag or experiment (HEAD)")
    given = parser.parse_args(arguments)
    stages = {"run": getattr(given, "stage", ""), "sources": "sources", "report": "report"}  # as in dvc.yaml
    return exit_status(lambda: _run(given), stages.get(given.command, ""))


def _run(given: argparse.Namespace) -> int:
    # each command imports only what it needs: nbconvert and papermill take a second each
    from aasist_lib.pipeline.run import cache_environment

    os.environ.update(cache_environment(paths.root()))
    os.environ.pop("JUPYTER_PATH", None)  # else kernels and nbconvert templates of another installation are found
    match given.command:
        case "check":
            from aasist_lib import params

            params.load()
            print("params.yaml is valid")
        case "run":
            from aasist_lib.pipeline.run import run

            return run(given.stage)
        case "sources" | "strip":
            from aasist_lib.pipeline.sources import copy_stripped, write_code

            source = paths.root() / "notebooks"
            target = source if given.command == "strip" else paths.root() / "build/nb"
            print(f"{target.name}: {len(copy_stripped(source, target))} notebooks written")
            if given.command == "sources":
                write_code(target, paths.root() / "build/code")
        case "report":
            from aasist_lib.pipeline.report import LEADERBOARD, write
            from aasist_lib.pipeline.run import run

            # no stage: without results of `make leaderboard` there is nothing to depend on
            if (paths.root() / "metrics/leaderboard.json").is_file():
                if status := run(LEADERBOARD):
                    return status
            else:
                (paths.root() / f"runs/{LEADERBOARD}.ipynb").unlink(missing_ok=True)
            write(paths.root())
        case "readme":
            from aasist_lib.pipeline.report import update_readme

            update_readme(paths.root(), only_check=given.check)
        case "plots-page":
            from aasist_lib.pipeline.report import write_plots_page

            write_plots_page(paths.root())
        case "quick":
            from aasist_lib.pipeline.quick import quick

            return quick(paths.root(), given.folder)
        case "compare":
            from aasist_lib.pipeline.compare import load, markdown

            text = markdown(load(paths.root(), given.a), load(paths.root(), given.b))
            if given.output:
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(text, encoding="utf-8")
            else:
                print(text, end="")
        case "verify":
            from aasist_lib.pipeline.verify import verify

            same, words = verify(paths.root(), given.commit)
            print(words)
            return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
