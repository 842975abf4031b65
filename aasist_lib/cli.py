"""The command `aasist`. Heavy imports wait until a command needs them, so that help is fast."""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from aasist_lib.base.errors import UserError

ALL_SCORED, WRONG_USAGE, SOME_NOT_SCORED, STOPPED = 0, 2, 3, 130
# File format by ending, in upper or lower case
SCORES = {"": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}
MEASURES = {"": "table", ".json": "json", ".txt": "table"}
MARK = "!! ALARM:"
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
    parser = argparse.ArgumentParser(prog="aasist", description="Tells bona fide human speech from deepfake speech.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    score = commands.add_parser(
        "score",
        help="score recordings",
        description="Score recordings: a log-likelihood ratio and a decision for each file.",
        epilog="Exit code: 0 all files scored, 3 some could not be, 2 wrong usage, 130 stopped by Ctrl-C.",
    )
    score.add_argument("paths", nargs="*", metavar="PATH", help="audio files, or folders to search for them")
    score.add_argument(
        "--detector",
        metavar="DIR",
        help="folder of a trained detector, or its ONNX file (default: models/detector of the project)",
    )
    score.add_argument(
        "--format", choices=("table", "csv", "json"), help="default: as --output's name ends, and table otherwise"
    )
    score.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    score.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="score into --output (csv or parquet) with so many processes, 0: one for each core; started again after "
        "a stop, it goes on (default: 0 for hundreds of files)",
    )
    score.add_argument(
        "--cluster",
        metavar="URL",
        help="the same by the workers of a Dask cluster, which see the same files: its scheduler",
    )
    score.add_argument(
        "--follow",
        action="store_true",
        help="score sound that arrives on standard input (raw, 16 bits, one channel, 16 kHz), a line every second",
    )
    score.set_defaults(run=_score, wrong=score.error)
    _add_export(commands)
    _add_metrics(commands)
    _add_serve(commands)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except UserError as error:
        print(f"aasist: {error}", file=sys.stderr)
        return WRONG_USAGE
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("aasist_lib"):
            raise
        needs = f'needs {error.name}, which is not installed: in a checkout of the project, pip install ".[research]"'
        print(f"aasist: {given.command} {needs}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt as error:
        print(f"aasist: stopped{error}", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `aasist score ... | head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ALL_SCORED


def _score(given: argparse.Namespace) -> int:
    output = _output(given)
    if given.follow == bool(given.paths):
        given.wrong("name recordings or folders, or give --follow and sound on standard input")

    from aasist_lib.detector import Detector, find

    folder = given.detector or _default_detector()
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
        print(f"aasist: left out, as not named like recordings: {said}", file=sys.stderr)
    if as_table and (form == "parquet" or asked or len(found) >= MANY_FILES):
        rows = _score_in_processes(given, found, folder, output)
    else:
        rows = _score_one_by_one(Detector.load(folder), found, output, form)
    failed = rows[rows["error"] != ""]
    for row in failed.itertuples():
        print(f"aasist: {row.path}: {row.error}", file=sys.stderr)
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

    from aasist_lib.base import files
    from aasist_lib.base.progress import progress
    from aasist_lib.detector import COLUMNS

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
        _give({"table": _table, "csv": _csv, "json": _json}[form](rows, detector), output)
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


def _add_export(commands) -> None:
    export = commands.add_parser(
        "export",
        help="write a detector as one ONNX file",
        description="Write a detector as one ONNX file, from waveform to log-likelihood ratio: front-end, network and "
        "calibration. aasist score takes it as --detector, without torch.",
    )
    export.add_argument(
        "--detector", metavar="DIR", help="folder of a trained detector (default: models/detector of the project)"
    )
    export.add_argument("--output", metavar="FILE", default="detector.onnx", help="default: detector.onnx")
    export.add_argument(
        "--int8",
        action="store_true",
        help="the network in 8-bit numbers, whose ranges are those of recordings of dev in the project's data/",
    )
    export.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> int:
    output = _output(given)
    folder = Path(given.detector or _default_detector())

    from aasist_lib.detector import Detector
    from aasist_lib.serving import export

    detector = Detector.load(folder)
    clips = export.project_clips() if given.int8 else None
    size = export.export(detector, output, about=export.provenance(folder), clips=clips)
    print(f"{output}: {size / 1e6:.1f} MB, scores at {detector.sample_rate} Hz")
    return ALL_SCORED


def _default_detector() -> Path:
    from aasist_lib.base import paths

    try:
        return paths.root() / "models/detector"
    except UserError:
        raise UserError("no detector here: name its folder with --detector DIR") from None


def _table(rows, detector) -> str:
    """Aligned columns, then the meaning of the first LLR and the decision rule in words."""
    from aasist_lib.detector import verbal_llr

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
            f"{path}, llr {llr:+.2f}: such a recording is {verbal_llr(llr)}; this is not a probability, and other "
            "kinds of fakes or recordings can mislead it. "
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


def _add_metrics(commands) -> None:
    measure = commands.add_parser(
        "metrics",
        help="measure the scores of any system",
        description="Measure the scores of any system: every metric with 95 % intervals, and by attack and codec. "
        "Higher scores mean bona fide.",
        epilog="Alarms (the system is upside down, scores are missing or tied, ...) come first, and on standard error "
        "where the report does not go to the terminal. Exit code: 0 measured, 2 wrong usage or files.",
    )
    measure.add_argument("scores", metavar="SCORES", help="score file")
    measure.add_argument("keys", metavar="KEYS", help="protocol or key file: what the trials are")
    measure.add_argument(
        "--format",
        required=True,
        choices=("asvspoof2019", "asvspoof2021", "asvspoof5", "csv"),  # scorefiles.FORMATS, without importing it
        help="of both files; csv: a header with utt_id and llr or score, and one with utt_id, label and more",
    )
    measure.add_argument(
        "--subset",
        metavar="NAME",
        help="of the keys of 2021: eval (default), progress, hidden or all; of csv keys: a value of their column split",
    )
    measure.add_argument(
        "--bootstrap", type=_samples, default=1000, metavar="N",
        help="samples for the intervals, at least 20; 0: no intervals (default: 1000)",
    )  # fmt: skip
    measure.add_argument(
        "--trials", action="store_true", help="draw single trials for the intervals instead of speakers and attacks"
    )
    measure.add_argument("--seed", type=_count, default=0, metavar="N", help="of the samples (default: 0)")
    for name, value, what in (
        ("--prior-spoof", 0.05, "prior probability of a spoof in minDCF and actDCF"),
        ("--cost-miss", 1.0, "cost of a real voice rejected"),
        ("--cost-false-alarm", 10.0, "cost of a spoof accepted"),
    ):
        measure.add_argument(
            name, type=float, default=value, metavar="X", help=f"{what} (default: {value:g}, as ASVspoof 5 has it)"
        )
    measure.add_argument(
        "--asv",
        metavar="FILE",
        help="for t-DCF: scores of the speaker verifier that belong to the corpus and set of KEYS, such as "
        "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt for eval of 2019 LA",
    )
    measure.add_argument("--asv-keys", metavar="FILE", help="with --asv and asvspoof2021: LA/ASV/trial_metadata.txt")
    measure.add_argument(
        "--dev",
        nargs=2,
        metavar=("SCORES", "KEYS"),
        help="the same system on dev, in the same format (2019's with 2021's): an alarm if dev is much easier",
    )
    measure.add_argument(
        "--json", action="store_true", help="one JSON document instead of tables; so does an --output *.json"
    )
    measure.add_argument("--output", metavar="FILE", help="write there instead of to standard output")
    measure.set_defaults(run=_metrics)


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


def _metrics(given: argparse.Namespace) -> int:
    output = _output(given)
    as_json = given.json or _form(output, MEASURES, "--json") == "json"
    if given.asv_keys and not given.asv:
        raise UserError("--asv-keys: goes with --asv")

    from aasist_lib import evaluation
    from aasist_lib.evaluation import scorefiles

    trials = scorefiles.read(given.scores, given.keys, given.format, given.subset)
    dev_eer = _dev_eer(*given.dev, given.format) if given.dev else None
    alarms = evaluation.alarms(trials.table, dev_eer=dev_eer)
    if as_json or output or not sys.stdout.isatty():  # else the printed report shows them
        for alarm in alarms:
            print(f"aasist: {MARK} {alarm}", file=sys.stderr)
    asv = scorefiles.read_asv(given.asv, trials, given.keys, given.asv_keys) if given.asv else None
    costs = {name: getattr(given, name) for name in ("prior_spoof", "cost_miss", "cost_false_alarm")}
    options = {"replicates": given.bootstrap, "seed": given.seed, "clusters": not given.trials}
    if given.bootstrap and len(trials.table) > MANY_TRIALS:
        print(f"aasist: {given.bootstrap} samples of {len(trials.table)} trials take a while; --bootstrap 0 leaves "
              "the intervals out", file=sys.stderr)  # fmt: skip
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
    }
    settings = {"costs": costs, "bootstrap": {"samples": given.bootstrap, "seed": given.seed}}
    if as_json:
        text = _metrics_json(about | settings | found)
    else:
        text = _metrics_text(about | settings | found)
    _give(text, output)
    return ALL_SCORED


def _dev_eer(scores: str, keys: str, format: str) -> float:
    from aasist_lib import evaluation, metrics
    from aasist_lib.evaluation import scorefiles

    # ASVspoof 2021 has no dev set: systems are developed on that of 2019
    trials = scorefiles.read(scores, keys, "asvspoof2019" if format == "asvspoof2021" else format)
    return metrics.eer(*evaluation.split_classes(evaluation.scored(trials.table))).value


def _metrics_json(found: dict) -> str:
    def plain(value):
        if hasattr(value, "to_dict"):  # a table
            value = value.to_dict(orient="records")
        if isinstance(value, dict):
            return {str(key): plain(x) for key, x in value.items()}
        if isinstance(value, list):
            return [plain(x) for x in value]
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _metrics_text(found: dict) -> str:
    """What was read, alarms, tables, and the meaning of the first number in words."""
    from aasist_lib import evaluation

    rows = found["metrics"]
    subset = f", subset {found['subset']}" if found["subset"] else ""
    lines = [
        f"{found['scores']} against {found['keys']} ({found['layout']}{subset}): {found['trials']} trials, "
        f"{found['bonafide']} bona fide and {found['spoof']} spoofed"
    ]
    if found["left_out"]:
        what = f"the subset {found['subset']}" if subset else "the keys"
        lines += [f"{found['left_out']} scores are of trials outside {what}, and left out"]
    lines += [f"{MARK} {alarm}" for alarm in found["alarms"]]
    lines += ["", *_aligned(_headline(rows)), ""]
    if found["intervals_over"]:
        lines += [
            f"In brackets: 95 % intervals by {found['bootstrap']['samples']} samples of {found['intervals_over']}.", ""
        ]  # fmt: skip
    for name in ("by_attack", "by_codec"):
        if len(found[name]):
            lines += [*_aligned(evaluation.readable(found[name].replace("", "-"))), ""]
    if len(found["by_attack_and_codec"]):
        table = found["by_attack_and_codec"]
        shown = {"EER (%)": table["attack"]}
        for codec in table.columns[1:]:
            shown[codec or "-"] = ["" if math.isnan(x) else f"{100 * x:.1f}" for x in table[codec]]
        lines += [*_aligned(shown), ""]
    return "\n".join([*lines, _meaning(rows["all"])]) + "\n"


def _headline(rows: dict) -> dict:
    """Columns of the first table: measures by condition, and t-DCF of all trials below."""
    from aasist_lib import evaluation

    columns = {name: list(column) for name, column in evaluation.headline_table(rows).items()}
    for year in (2019, 2021):
        key = f"min_tdcf_{year}"
        if key in rows["all"]:
            low, high = (rows["all"].get(f"{key}_{end}") for end in ("low", "high"))
            said = {name: "" for name in columns} | {"Measure": f"min t-DCF, form of {year}"}
            said[evaluation.CONDITIONS["all"]] = evaluation.interval(rows["all"][key], low, high, percent=False)
            for name, column in columns.items():
                column.append(said[name])
    return columns


def _meaning(row: dict) -> str:
    percent = f"{100 * row['eer']:.1f}"
    said = (
        f"EER {percent} %: with the threshold where both errors are equally frequent, {percent} of 100 real voices are "
        f"called fake, and {percent} of 100 fakes pass for real. "
    )
    if row["cllr"] > 1:
        return said + (
            f"Cllr {row['cllr']:.2f} is above 1: these scores are not calibrated LLRs (natural-log likelihood ratios), "
            "so that actDCF and Cllr say nothing about how well they tell real from fake."
        )
    return said + "actDCF and Cllr take the scores as natural-log likelihood ratios, as they are."


def _aligned(table) -> list[str]:
    """Align a table of text: the first column to the left, the others to the right."""
    columns = [[str(name), *map(str, table[name])] for name in table]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(width) for x, width in zip(row[1:], widths[1:], strict=True))])
        for row in zip(*columns, strict=True)
    ]


def _add_serve(commands) -> None:
    import dataclasses

    from aasist_lib.serving import limits

    serve = commands.add_parser(
        "serve",
        help="score recordings over HTTP",
        description="Score recordings over HTTP: a page at /, POST /v1/score, GET /v1/model, /healthz, /readyz, "
        "/metrics, /openapi.json.",
        epilog="Every bound may be set in the environment as well: AASIST_MAX_FILES=5 for --max-files 5. SIGTERM "
        "finishes what is running. Exit code: 0 ended by a signal, 2 wrong usage, or a detector that does not score.",
    )
    serve.add_argument(
        "--detector", metavar="DIR", help="folder of a trained detector, or an ONNX file (default: models/detector)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=_count, default=8000, metavar="N", help="0: any free one (default: 8000)")
    serve.add_argument(
        "--token-file", metavar="FILE", help="holds a token that /v1/* then asks for (default: AASIST_TOKEN, else none)"
    )
    for limit in dataclasses.fields(limits.Limits):
        serve.add_argument(
            f"--{limit.name.replace('_', '-')}", type=limit.type, metavar="N",
            help=f"{limit.metadata['help']} (default: {limit.default:g})",
        )  # fmt: skip
    serve.set_defaults(run=_serve, limits=[limit.name for limit in dataclasses.fields(limits.Limits)])


def _serve(given: argparse.Namespace) -> int:
    from aasist_lib.serving import limits, run

    allowed = limits.read({name: getattr(given, name) for name in given.limits})
    token = run.token(given.token_file)
    run.serve(given.detector or _default_detector(), given.host, given.port, allowed, token)
    return ALL_SCORED


def _output(given: argparse.Namespace) -> Path | None:
    from aasist_lib.base import files

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
    from aasist_lib.base import files

    if output is None:
        print(text, end="", flush=True)
        return
    with files.whole(output) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    sys.exit(main())
