"""`make select`: candidates of experiments/selection.yaml, each trained with attacks and sources left out in turn."""

from pathlib import Path

from aasist_lib import evaluation
from aasist_lib.studies import run_leaderboard as leaderboard
from aasist_lib.studies import selection

CANDIDATES = Path("experiments/selection.yaml")
RUNS = Path("build/selection")


def run(root: Path, workers: int = 2, candidates: Path | None = None) -> Path:
    """Trains what is not trained yet, and writes `metrics/selection.json` and `metrics/selection.csv`.

    Results that the first holds count as done where their keys fit, on whichever machine they were made.

    Parameters
    ----------
    root : pathlib.Path
        Top folder of the project; its `data/` is what the candidates are trained on.
    workers : int
        Processes, of one thread each.
    candidates : pathlib.Path, optional
        In place of `experiments/selection.yaml`; the results are then named after it.

    Returns
    -------
    pathlib.Path
        The table, as csv: a row a candidate.

    Raises
    ------
    UserError
        The file of candidates or one of its settings is wrong, or a training goes wrong.
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
