"""How much quicker a head trains on an encoder's stored states than with the encoder in every step.

    python benchmarks/embeddings.py [--steps 3] [--width 768] [--layers 12]

The encoder has the size of wav2vec2-base and random weights, which take as long as learned ones. What is trained is
`model.name: wav2vec2`, on the recordings of tests/speech and coarse copies of them, in batches of 32 crops of 2 s: on
stores of two of its states and of all of them, and on a store of waveforms. A step's time is the difference of a
training with more steps and one with a single step, so that what comes before and after them, dev included, does not
count. Times are processor seconds of one thread, so that other work on the machine matters little.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
import transformers
from transformers.utils import logging

from aasist_lib import audio, corpora, detector, params, store, training

ROOT = Path(__file__).parents[1]
BATCH = 32
CHANGES = {"max_epochs": 1, "batch_size": BATCH, "crop_seconds": 2.0, "time_mask_frames": 15}


def main() -> None:
    """Measures all sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3, help="with the encoder in them; ten times as many without")
    parser.add_argument("--width", type=int, default=768, help="of the encoder, 128 at least")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = transformers.Wav2Vec2Config(hidden_size=options.width, num_hidden_layers=options.layers)
        transformers.Wav2Vec2Model(config).save_pretrained(work / "encoder")
        table = corpus(work / "corpus")
        two = [options.layers // 3, 2 * options.layers // 3]
        sides = {
            "encoder in every step": {"kind": "waveform"},
            "all states": {"kind": "wav2vec2", "layers": "all"},
            f"states {two[0]} and {two[1]}": {"kind": "wav2vec2", "layers": two},
        }
        print(f"{'':24}{'GB an hour':>12}{'extract':>10}{'a step':>10}{'ratio':>8}   core seconds; extract: for 1 s")
        first = None
        for name, kind in sides.items():
            encoder = {"encoder": str(work / "encoder")} if kind["kind"] == "wav2vec2" else {}
            common = {"sample_rate": 16000, "n_fft": 256, "hop_length": 64, "deltas": 0, "normalise": "none"}
            taken, made = timed(store.extract, table, work / "corpus", work / "store", common | kind | encoder)
            size = sum(path.stat().st_size for path in (work / "store").glob("*.npy"))
            more = options.steps * (10 if encoder else 1)
            step = (trained(work, 1 + more) - trained(work, 1)) / more
            first = first or step
            hour, second = size / made.seconds * 3.6e-6, taken / made.seconds
            print(f"{name:24}{hour:12.3f}{second:10.3f}{step:10.3f}{first / step:8.0f}", flush=True)


def corpus(folder: Path) -> pd.DataFrame:
    """Recordings and copies of them in some twenty steps of loudness."""
    folder.mkdir()
    rows = []
    for path in detector.find(ROOT / "tests/speech"):
        wave = audio.read(path, 16000)
        fine = 10 / np.abs(wave).max()
        for label, made in {"bonafide": wave, "spoof": np.round(wave * fine) / fine}.items():
            name = f"{path.stem}-{label}"
            soundfile.write(folder / f"{name}.wav", made, 16000, subtype="FLOAT")
            rows.append({"utt_id": name, "path": f"{name}.wav", "label": label, "speaker": path.stem})
    found = pd.DataFrame(rows).reindex(columns=corpora.COLUMNS, fill_value="")
    return found.assign(split=["dev"] * 4 + ["train"] * (len(found) - 4))


def trained(work: Path, steps: int) -> float:
    """Processor seconds of a training of so many steps."""
    settings = params.overlaid({"model": {"name": "wav2vec2", "wav2vec2": {"encoder": str(work / "encoder")}}})
    return timed(
        training.fit, work / "store", work / "network", model=settings["model"], train=settings["train"] | CHANGES,
        seed=1, threads=1, checkpoints=work / "checkpoints", draws=steps * BATCH,
    )[0]  # fmt: skip


def timed(what, *arguments, **options):
    """Processor seconds that a call took, and what it gave."""
    start = time.process_time()
    found = what(*arguments, **options)
    return time.process_time() - start, found


if __name__ == "__main__":
    main()
