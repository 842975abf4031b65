"""Check of extracted features against a slow reference."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import audio, features


def differences_from_reference(store, root: Path | str, count: int = 20) -> tuple[pd.Series, str]:
    """Largest absolute difference (dB) of each utterance's static coefficients from a reference, and its name.

    The reference is librosa for plain MFCC, else the front-end on each recording alone. `count` utterances are spread
    evenly over the store. Encoder states have no unit: their differences are relative to values above 1.
    """
    settings = store.features
    if settings["kind"] == "mfcc" and settings.get("normalise", "none") == "none":
        reference, computed = "librosa", _librosa_mfcc(settings)
    else:
        reference, computed = "the front-end on each recording alone", _alone(settings)
    differences = {}
    places = store.recordings.index
    for row in places[np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))]:
        expected = computed(audio.read(Path(root) / store.table["path"][row], settings["sample_rate"]))
        apart = np.abs(store.map(row)[: len(expected)] - expected)
        if settings["kind"] == "wav2vec2":  # no dB; stored with 11 significant bits
            apart /= np.maximum(np.abs(expected), 1)
        differences[store.table["utt_id"][row]] = apart.max()
    return pd.Series(differences), reference


def _librosa_mfcc(settings: dict):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # from a progress bar in a dependency
        from librosa.feature import mfcc  # takes seconds to import

    options = {name: settings[name] for name in ("n_mfcc", "n_fft", "hop_length", "n_mels")}
    return lambda waveform: mfcc(y=waveform, sr=settings["sample_rate"], **options)


def _alone(settings: dict):
    front_end = features.build(settings).eval()
    static = front_end.coefficients // front_end.channels
    return lambda waveform: front_end(torch.from_numpy(waveform)[None])[0, :static].numpy()
