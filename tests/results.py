"""Computes on a small corpus what the stages compute, and prints a hash of each piece, for `test_processors.py`.

    python tests/results.py FOLDER [DATA]

FOLDER is made; DATA is a corpus with a protocol.csv, by default the recordings of tests/speech.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from aasist_lib import calibration, corpora, evaluation, params, store, training
from aasist_lib.audit import shortcuts
from aasist_lib.studies import baselines

ROOT = Path(__file__).parents[1]
FRONT_ENDS = ("mfcc", "lfcc", "logspec", "cqt", "wavelet")


def tell(name: str, *results) -> None:
    """One line: a name, and the hash of files, arrays and numbers."""
    found = hashlib.md5()
    for result in results:
        if isinstance(result, Path):
            for path in sorted(path for path in result.rglob("*") if path.is_file()):
                found.update(path.name.encode() + path.read_bytes())
        else:
            found.update(result.tobytes() if isinstance(result, np.ndarray) else repr(result).encode())
    print(name, found.hexdigest(), flush=True)


def corpus() -> pd.DataFrame:
    """Recordings of people, every other one in the place of a fake: what is compared is arithmetic, not errors."""
    paths = sorted(path for path in (ROOT / "tests/speech").iterdir() if path.suffix in {".wav", ".flac", ".ogg"})
    rows = []
    for number, path in enumerate(paths):
        fake, split = number % 2 == 1, ("train", "dev", "eval")[number // 2 % 3]
        rows.append(
            {
                "utt_id": path.stem,
                "path": f"audio/{path.name}",
                "label": "spoof" if fake else "bonafide",
                "speaker": f"{split}-{number % 4}",
                "attack": "a machine" if fake else "",
                "split": split,
                "condition": "known" if fake and split == "eval" else "",
                "source": f"place {number % 4}",
            }
        )
    return pd.DataFrame(rows)


def main(folder: Path, data: Path | None = None) -> None:
    """Prints a line for each piece."""
    settings = params.load(ROOT / "params.yaml")
    folder.mkdir()
    if data is None:
        data = folder / "data"
        data.mkdir()
        (data / "audio").symlink_to(ROOT / "tests/speech")
        corpus().to_csv(data / "protocol.csv", index=False)
    table = corpora.read(data, "protocol")

    kind = settings["features"]
    store.extract(table, data, folder / "waveforms", kind, content="waveforms", copies=1, max_bad_fraction=1)
    tell("waveforms and copies", folder / "waveforms")
    for name in FRONT_ENDS:
        text = (ROOT / "params.yaml").read_text("utf-8").replace("kind: mfcc ", f"kind: {name} ")
        (folder / "params.yaml").write_text(text, "utf-8")
        made = params.load(folder / "params.yaml")["features"]
        store.extract(table, data, folder / name, made, max_bad_fraction=1)
        tell(f"features {name}", folder / name)

    train = settings["train"] | {"max_epochs": 2, "batch_size": 8}
    augment = settings["augment"] | {"codec": 0.5, "noise": 0.5, "room": 0.5, "rawboost": 0.5, "band": 0.5}
    # two threads on features alone: with waveforms another process would change them, and threads that begin and end
    # are too much for qemu 7.2
    for held, threads, changes in (("mfcc", 2, None), ("waveforms", 1, augment)):
        training.fit(
            folder / held, folder / "network", model=settings["model"], train=train, augment=changes, seed=1,
            threads=threads, checkpoints=folder / "checkpoints",
        )  # fmt: skip
        tell(f"training on {held}", folder / "network")
    dev, test = (store.scores(folder / "network", folder / "waveforms", split) for split in ("dev", "eval"))
    tell("scores", dev["score"].to_numpy(), test["score"].to_numpy())
    for fitted in calibration.fit_isotonic, calibration.fit_affine:
        fit = fitted(*evaluation.split_classes(dev, "score"))
        test["llr"] = fit(test["score"])
        tell(fitted.__name__, test["llr"].to_numpy())
    tell("metrics", evaluation.headline(test, 0.0, replicates=50, seed=1))

    plain = store.Store(folder / "lfcc")
    rows = plain.select("eval")
    tell("gmm", baselines.gmm(plain, rows, components=4))
    tell("logistic", baselines.logistic(plain, rows))
    found = shortcuts.measure(table, data, kind["sample_rate"], folder / "cues")
    tell("cues", found.to_numpy())
    tell("shortcuts", shortcuts.baselines(table, found, replicates=20))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
