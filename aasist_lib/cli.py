"""The command `aasist`. Heavy imports wait until a command needs them, so that help is fast."""

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path

from aasist_lib.base import files, paths
from aasist_lib.base.errors import UserError
from aasist_lib.serving.limits import Limits

ALL_SCORED, WRONG_USAGE, SOME_NOT_SCORED, STOPPED = 0, 2, 3, 130
# File format by ending, in upper or lower case
SCORES = {"": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}
MEASURES = {"": "table", ".json": "json", ".txt": "table"}
MANY_FILES = 200  # from here on, several processes score into a csv
MANY_TRIALS = 50_000  # from here on, the bootstrap takes minutes


def main(arguments: list[str] | None = None) -> int:
    """Run `aasist`.

    Parameters
    ----------
    arguments
        Command line without the program's name; that of this process by default.

    Returns
    -------
    status
        0 all scored or measured, 2 wrong usage or files, 3 some not scored, 130 stopped by Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    try:
        return given.run(given)
    except UserError as error:
        _say(error)
        return WRONG_USAGE
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("aasist_lib"):
            raise
        needs = f'needs {error.name}, which is not installed: in a checkout of the project, pip install ".[research]"'
        _say(f"{given.command} {needs}")
        return WRONG_USAGE
    except KeyboardInterrupt as error:
        _say(f"stopped{error}")
        return STOPPED
    except BrokenPipeError:  # `aasist score ... | head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ALL_SCORED


def _say(message) -> None:
    print(f"aasist: {message}", file=sys.stderr)


# Options.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aasist", description="Tells bona fide human speech from deepfake speech.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    detector = argparse.ArgumentParser(add_help=False)
    detector.add_argument(
        "--detector",
        metavar="DIR",
        help="folder of a trained detector, or its ONNX file (default: models/detector of the project)",
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", metavar="FILE", help="write there instead of to standard output")

    def command(name: str, run, *shared, **about):
        made = commands.add_parser(name, parents=shared, **about)
        made.set_defaults(run=run, wrong=made.error)
        return made.add_argument

    _score_options(command, detector, output)
    _export_options(command)
    _metrics_options(command, output)
    _serve_options(command, detector)
    return parser


def _score_options(command, detector, output) -> None:
    option = command(
        "score", _score, detector, output, help="score recordings",
        description="Score recordings: a log-likelihood ratio and a decision for each file.",
        epilog="Exit code: 0 all files scored, 3 some could not be, 2 wrong usage, 130 stopped by Ctrl-C.",
    )  # fmt: skip
    option("paths", nargs="*", metavar="PATH", help="audio files, or folders to search for them")
    option("--format", choices=("table", "csv", "json"), help="default: as --output's name ends, and table otherwise")
    option(
        "--jobs",
        type=_count,
        metavar="N",
        help="score into --output (csv or parquet) with so many processes, 0: one for each core; started again after "
        "a stop, it goes on (default: 0 for hundreds of files)",
    )
    option(
        "--cluster",
        metavar="URL",
        help="the same by the workers of a Dask cluster, which see the same files: its scheduler",
    )
    option(
        "--follow",
        action="store_true",
        help="score sound that arrives on standard input (raw, 16 bits, one channel, 16 kHz), a line every second",
    )


def _export_options(command) -> None:
    option = command(
        "export", _export, help="write a detector as one ONNX file",
        description="Write a detector as one ONNX file, from waveform to log-likelihood ratio: front-end, network and "
        "calibration. aasist score takes it as --detector, without torch.",
    )  # fmt: skip
    option("--detector", metavar="DIR", help="folder of a trained detector (default: models/detector of the project)")
    option("--output", metavar="FILE", default="detector.onnx", help="default: detector.onnx")
    option(
        "--int8",
        action="store_true",
        help="the network in 8-bit numbers, whose ranges are those of recordings of dev in the project's data/",
    )


def _metrics_options(command, output) -> None:
    option = command(
        "metrics", _metrics, output, help="measure the scores of any system",
        description="Measure the scores of any system: every metric with 95 % intervals, and by attack and codec. "
        "Higher scores mean bona fide.",
        epilog="Alarms (the system is upside down, scores are missing or tied, ...) come first, and on standard error "
        "where the report does not go to the terminal. Exit code: 0 measured, 2 wrong usage or files.",
    )  # fmt: skip
    option("scores", metavar="SCORES", help="score file")
    option("keys", metavar="KEYS", help="protocol or key file: what the trials are")
    option(
        "--format",
        required=True,
        choices=("asvspoof2019", "asvspoof2021", "asvspoof5", "csv"),  # scorefiles.FORMATS, without importing it
        help="of both files; csv: a header with utt_id and llr or score, and one with utt_id, label and more",
    )
    option(
        "--subset",
        metavar="NAME",
        help="of the keys of 2021: eval (default), progress, hidden or all; of csv keys: a value of their column split",
    )
    option(
        "--bootstrap", type=_samples, default=1000, metavar="N",
        help="samples for the intervals, at least 20; 0: no intervals (default: 1000)",
    )  # fmt: skip
    option("--trials", action="store_true", help="draw single trials for the intervals instead of speakers and attacks")
    option("--seed", type=_count, default=0, metavar="N", help="of the samples (default: 0)")
    for name, value, what in (
        ("--prior-spoof", 0.05, "prior probability of a spoof in minDCF and actDCF"),
        ("--cost-miss", 1.0, "cost of a real voice rejected"),
        ("--cost-false-alarm", 10.0, "cost of a spoof accepted"),
    ):
        option(name, type=float, default=value, metavar="X", help=f"{what} (default: {value:g}, as ASVspoof 5 has it)")
    option(
        "--asv",
        metavar="FILE",
        help="for t-DCF: scores of the speaker verifier that belong to the corpus and set of KEYS, such as "
        "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt for eval of 2019 LA",
    )
    option("--asv-keys", metavar="FILE", help="with --asv and asvspoof2021: LA/ASV/trial_metadata.txt")
    option(
        "--dev",
        nargs=2,
        metavar=("SCORES", "KEYS"),
        help="the same system on dev, in the same format (2019's with 2021's): an alarm if dev is much easier",
    )
    option("--json", action="store_true", help="one JSON document instead of tables; so does an --output *.json")


def _serve_options(command, detector) -> None:
    option = command(
        "serve", _serve, detector, help="score recordings over HTTP",
        description="Score recordings over HTTP: a page at /, POST /v1/score, GET /v1/model, /healthz, /readyz, "
        "/metrics, /openapi.json.",
        epilog="Every bound may be set in the environment as well: AASIST_MAX_FILES=5 for --max-files 5. SIGTERM "
        "finishes what is running. Exit code: 0 ended by a signal, 2 wrong usage, or a detector that does not score.",
    )  # fmt: skip
    option("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    option("--port", type=_count, default=8000, metavar="N", help="0: any free one (default: 8000)")
    option(
        "--token-file", metavar="FILE", help="holds a token that /v1/* then asks for (default: AASIST_TOKEN, else none)"
    )
    for limit in dataclasses.fields(Limits):
        what = f"{limit.metadata['help']} (default: {limit.default:g})"
        option(f"--{limit.name.replace('_', '-')}", type=limit.type, metavar="N", help=what)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _samples(text: str) -> int:
    count = _count(text)
    if 0 < count < 20:
        raise argparse.ArgumentTypeError(
            f"{text} samples have no 2.5 % quantile: take 20 or more, or 0 for no intervals"
        )
    return count


# Commands.


def _score(given: argparse.Namespace) -> int:
    output = _output(given)
    if given.follow == bool(given.paths):
        given.wrong("name recordings or folders, or give --follow and sound on standard input")

    from aasist_lib.detector import Detector, find

    folder = _detector(given)
    if given.follow:
        return _follow(Detector.load(folder))
    if output and given.format and output.suffix.lower() == ".parquet":
        raise UserError(f"--format {given.format}: {output} would be parquet; leave --format out, or name another file")
    form = given.format or _form(output, SCORES, "--format")
    as_table = output is not None and form in ("csv", "parquet")
    asked = "--cluster" if given.cluster else "--jobs" if given.jobs is not None else ""
    if asked and not as_table:
        raise UserError(f"{asked}: goes with an --output that ends with .csv or .parquet")
    found, left_out = find(given.paths)
    if left_out:
        said = ", ".join(f"{count} {end or 'without an ending'}" for end, count in left_out.most_common())
        _say(f"left out, as not named like recordings: {said}")
    if as_table and (form == "parquet" or asked or len(found) >= MANY_FILES):
        rows = _score_in_processes(given, found, folder, output)
    else:
        rows = _score_one_by_one(Detector.load(folder), found, output, form)
    failed = rows[rows["error"] != ""]
    for row in failed.itertuples():
        _say(f"{row.path}: {row.error}")
    return SOME_NOT_SCORED if len(failed) else ALL_SCORED


def _score_in_processes(given: argparse.Namespace, found: list[Path], detector, output: Path):
    from aasist_lib.serving import bulk

    try:
        return bulk.score(found, detector, output, jobs=given.jobs or 0, cluster=given.cluster or "")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(": the same command goes on from what is done") from None


def _score_one_by_one(detector, found: list[Path], output: Path | None, form: str):
    """Score and write all files; after Ctrl-C, write the rows so far, to `<output>.stopped` if there is an output."""
    import pandas as pd

    from aasist_lib.base.progress import progress
    from aasist_lib.detector import COLUMNS
    from aasist_lib.detector.output import as_csv, as_json, as_table

    records, stopped = [], False
    try:
        for path in progress(found, desc="score", unit="file") if len(found) > 1 else found:
            records.append(detector.score_file(path))
    except KeyboardInterrupt:
        stopped = True
        if output and (file := files.target(output)):  # a partial result must not look complete
            output = file.with_name(f"{file.name}.stopped")
    rows = pd.DataFrame(records, columns=COLUMNS)
    if records or not stopped:
        _give({"table": as_table, "csv": as_csv, "json": as_json}[form](rows, detector), output)
    if stopped:
        where = f", in {output}" if records and output else ""
        raise KeyboardInterrupt(f": {len(records)} of {len(found)} recordings are scored{where}")
    return rows


def _follow(detector) -> int:
    from aasist_lib.serving import stream

    print("start,end,llr,decision,delay_ms", flush=True)
    for score in stream.stream(detector, sys.stdin.buffer):
        llr = "" if math.isnan(score.llr) else f"{score.llr:.3f}"
        print(f"{score.start:.1f},{score.end:.1f},{llr},{score.decision},{1000 * score.delay:.1f}", flush=True)
    return ALL_SCORED


def _export(given: argparse.Namespace) -> int:
    output, folder = _output(given), _detector(given)

    from aasist_lib.detector import Detector
    from aasist_lib.serving import export

    detector = Detector.load(folder)
    clips = export.project_clips() if given.int8 else None
    size = export.export(detector, output, about=export.provenance(folder), clips=clips)
    print(f"{output}: {size / 1e6:.1f} MB, scores at {detector.sample_rate} Hz")
    return ALL_SCORED


def _metrics(given: argparse.Namespace) -> int:
    output = _output(given)
    as_json = given.json or _form(output, MEASURES, "--json") == "json"
    if given.asv_keys and not given.asv:
        raise UserError("--asv-keys: goes with --asv")

    from aasist_lib import evaluation
    from aasist_lib.evaluation import report, scorefiles

    trials = scorefiles.read(given.scores, given.keys, given.format, given.subset)
    dev_eer = scorefiles.dev_eer(*given.dev, given.format) if given.dev else None
    alarms = evaluation.alarms(trials.table, dev_eer=dev_eer)
    if as_json or output or not sys.stdout.isatty():  # else the printed report shows them
        for alarm in alarms:
            _say(f"{report.MARK} {alarm}")
    asv = scorefiles.read_asv(given.asv, trials, given.keys, given.asv_keys) if given.asv else None
    costs = {name: getattr(given, name) for name in ("prior_spoof", "cost_miss", "cost_false_alarm")}
    options = {"replicates": given.bootstrap, "seed": given.seed, "clusters": not given.trials}
    if given.bootstrap and len(trials.table) > MANY_TRIALS:
        _say(f"{given.bootstrap} samples of {len(trials.table)} trials take a while; --bootstrap 0 leaves the "
             "intervals out")  # fmt: skip
    try:
        found = scorefiles.measure(trials, **options, **costs, asv=asv)
    except UserError as error:
        raise UserError(str(error).replace("use clusters=None", "use --trials")) from None
    about = {
        "scores": given.scores,
        "keys": given.keys,
        "layout": trials.layout,
        "subset": trials.subset,
        "trials": len(trials.table),
        "bonafide": int((trials.table["label"] == "bonafide").sum()),
        "spoof": int((trials.table["label"] == "spoof").sum()),
        "left_out": trials.left_out,
        "alarms": alarms,
        "dev_eer": dev_eer,
        "costs": costs,
        "bootstrap": {"samples": given.bootstrap, "seed": given.seed},
    }
    _give((report.as_json if as_json else report.as_text)(about | found), output)
    return ALL_SCORED


def _serve(given: argparse.Namespace) -> int:
    from aasist_lib.serving import limits, run

    allowed = limits.read({limit.name: getattr(given, limit.name) for limit in dataclasses.fields(Limits)})
    token = run.token(given.token_file)
    run.serve(_detector(given), given.host, given.port, allowed, token)
    return ALL_SCORED


# What several commands share.


def _detector(given: argparse.Namespace) -> Path:
    if given.detector:
        return Path(given.detector)
    try:
        return paths.root() / "models/detector"
    except UserError:
        raise UserError("no detector here: name its folder with --detector DIR") from None


def _output(given: argparse.Namespace) -> Path | None:
    if not given.output:
        return None
    files.check(given.output)  # fail before hours of scoring, not after
    return Path(given.output)


def _form(output: Path | None, known: dict[str, str], option: str) -> str:
    """Output format by the ending of the file's name."""
    ending = output.suffix.lower() if output else ""
    if ending not in known:
        endings = ", ".join(filter(None, known))
        raise UserError(f"--output: {output} ends with none of {endings}: rename it, or give {option}")
    return known[ending]


def _give(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="", flush=True)
        return
    with files.whole(output) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    sys.exit(main())
