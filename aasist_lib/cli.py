"""The command `aasist`. Heavy imports wait until a command needs them: help comes at once."""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from aasist_lib.errors import UserError

ALL_SCORED, WRONG_USAGE, SOME_NOT_SCORED = 0, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run `aasist`.

    Parameters
    ----------
    arguments : list of str, optional
        What follows the command's name; those of this process by default.

    Returns
    -------
    int
        Exit code: 0 all scored, 2 wrong usage, 3 some could not be scored.
    """
    parser = argparse.ArgumentParser(prog="aasist", description="Tells bona fide human speech from deepfake speech.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    score = commands.add_parser(
        "score",
        help="score recordings",
        description="Score recordings: a log-likelihood ratio and a decision for each file.",
        epilog="Exit code: 0 all files scored, 3 some could not be, 2 wrong usage.",
    )
    score.add_argument("paths", nargs="+", metavar="PATH", help="audio files, or folders to search for them")
    score.add_argument(
        "--detector", metavar="DIR", help="folder of a trained detector (default: models/detector of the project)"
    )
    score.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: table")
    score.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    score.set_defaults(run=_score)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except UserError as error:
        print(f"aasist: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:  # `aasist score ... | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ALL_SCORED


def _score(given: argparse.Namespace) -> int:
    output = Path(given.output) if given.output else None
    if output and not os.path.isdir(output.absolute().parent):  # said before an hour of scoring, not after it
        raise UserError(f"--output: {output.parent} is not a folder: make it first")

    from aasist_lib.detector import Detector

    detector = Detector.load(given.detector or _default_detector())
    rows = detector.score(given.paths, show_progress=True)
    text = {"table": _table, "csv": _csv, "json": _json}[given.format](rows, detector)
    if output:
        _write(output, text)
    else:
        print(text, end="", flush=True)
    failed = rows[rows["error"] != ""]
    for row in failed.itertuples():
        print(f"aasist: {row.path}: {row.error}", file=sys.stderr)
    return SOME_NOT_SCORED if len(failed) else ALL_SCORED


def _default_detector() -> Path:
    from aasist_lib import paths

    try:
        return paths.root() / "models/detector"
    except UserError:
        raise UserError("no detector here: name its folder with --detector DIR") from None


def _table(rows, detector) -> str:
    """Aligned columns, then in plain words what the first number means and how decisions are made."""
    from aasist_lib.detector import in_words

    width = max([len("file"), *(len(path) for path in rows["path"])])
    lines = [f"{'file':<{width}}  seconds     llr  decision"]
    for row in rows.itertuples():
        seconds = "" if math.isnan(row.seconds) else f"{row.seconds:.2f}"
        said = f"{row.llr:+8.2f}  {row.decision}" if not row.error else f"{'':>8}  not scored: {row.error}"
        lines.append(f"{row.path:<{width}} {seconds:>8}{said}")
    lines += [""]
    scored = rows[rows["error"] == ""]
    if len(scored):
        path, llr = scored["path"].iloc[0], float(scored["llr"].iloc[0])
        lines += [
            f"{path}, llr {llr:+.2f}: such a recording is {in_words(llr)}; this is not a probability, and other kinds "
            "of fakes or recordings can mislead it. "
            f"Decision: spoof below {detector.threshold:+.2f} (policy {detector.policy})."
        ]
    return "\n".join(lines) + "\n"


def _csv(rows, detector) -> str:
    return rows.round({"seconds": 3, "llr": 6}).to_csv(index=False, lineterminator="\n")


def _json(rows, detector) -> str:
    records = rows.round({"seconds": 3, "llr": 6}).to_dict(orient="records")
    records = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
        for record in records
    ]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"--output: {path} cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main())
