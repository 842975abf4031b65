"""Features compared with a slow reference."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aasist_lib import audio, features


def differences_from_reference(store, root: Path | str, count: int = 20) -> tuple[pd.Series, str]:
    """How far a store's coefficients are from those of a slow reference, one recording at a time.

    Parameters
    ----------
    store : Store
    root : path
        Folder of the corpus.
    count : int
        Utterances of the corpus to compare, spread evenly over the store; all, if it holds fewer.

    Returns
    -------
    differences : Series
        utt_id -> largest absolute difference of a coefficient (dB), slopes left aside; of an encoder's states, which
        have no unit, relative to those that are larger than 1.
    reference : str
        What it is: librosa for MFCC as they are, the front-end on each recording alone for the rest.
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
        if settings["kind"] == "wav2vec2":  # no decibels; kept in 11 binary digits
            apart /= np.maximum(np.abs(expected), 1)
        differences[store.table["utt_id"][row]] = apart.max()
    return pd.Series(differences), reference


def _librosa_mfcc(settings: dict):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # a downloader among its parts wants other bars
        from librosa.feature import mfcc  # takes seconds, and nothing else here needs it

    options = {name: settings[name] for name in ("n_mfcc", "n_fft", "hop_length", "n_mels")}
    return lambda waveform: mfcc(y=waveform, sr=settings["sample_rate"], **options)


def _alone(settings: dict):
    front_end = features.build(settings).eval()
    static = front_end.coefficients // front_end.channels
    return lambda waveform: front_end(torch.from_numpy(waveform)[None])[0, :static].numpy()
