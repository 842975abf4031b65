"""`make select`: cross-validate the candidates of experiments/selection.yaml, with attacks and sources left out."""

from pathlib import Path

from aasist_lib import evaluation
from aasist_lib.studies import run_leaderboard as leaderboard
from aasist_lib.studies import selection

CANDIDATES = Path("experiments/selection.yaml")
RUNS = Path("build/selection")


def run(root: Path, workers: int = 2, candidates: Path | None = None) -> Path:
    """Train what is missing; write `metrics/selection.json` and `.csv`, and return the csv path.

    Valid results in the json file are not made again, whichever machine they are from. `candidates` replaces
    `experiments/selection.yaml`, and results are named after it.

    Raises
    ------
    UserError
        The file or a setting in it is invalid, or a training fails.
    """
    path = candidates or root / CANDIDATES
    content = leaderboard.content_of(path)
    systems = leaderboard.read(path, root / "params.yaml")
    held = leaderboard.waveforms(root, workers, systems)
    board = root / f"metrics/{path.stem}.json"
    about = {"about": {name: entry["about"] for name, entry in content["systems"].items()}}
    about["data"] = leaderboard.data(root)

    def save(results: list[dict]) -> None:
        evaluation.save_json(board, about | {"sentence": selection.sentence(results), "results": results})
        evaluation.save_csv(board.with_suffix(".csv"), selection.table(results, against=systems[0].name))

    selection.run(
        systems, held, root / RUNS, folds=content["folds"], draws=content["draws"], kept=leaderboard.kept(board),
        save=save, workers=workers,
    )  # fmt: skip
    return board.with_suffix(".csv")
