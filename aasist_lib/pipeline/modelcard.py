"""Model card, after Mitchell et al. (2019), "Model Cards for Model Reporting".

Every number is a result of the stages. What a corpus does not have (the split narrow, sources, parts of the audit) is
left out.
"""

import math
from collections.abc import Mapping

import pandas as pd

from aasist_lib import evaluation
from aasist_lib.pipeline import datasheet

SHOWN = ("eer", "min_dcf", "act_dcf", "cllr", "bonafide_rejected", "spoof_accepted", "n_bonafide", "n_spoof")
MADE = ("data", "models/network", "models/detector", "trained with", "trained on")  # of the index page's provenance
MOST = 20  # rows of a table, worst first: public corpora have hundreds of attacks

NETWORKS = {
    "cnn_attention": "convolutions, then attention over time", "resnet": "a residual network, squeeze-and-excitation",
    "transformer": "a transformer on patches", "aasist": "AASIST, graph attention on the waveform",
    "wav2vec2": "a head on a pre-trained speech encoder",
}  # fmt: skip
# first part of the name of an audit condition -> kind, and format of the rest
WEAR = {
    "white": ("White noise", "SNR {} dB"), "pink": ("Pink noise", "SNR {} dB"), "babble": ("Babble", "SNR {} dB"),
    "room": ("Room", "reverberation {} s"), "resampled": ("Resampling", "to {} Hz and back"),
    "clipped": ("Clipping", "{} % of samples"), "speed": ("Speed", "times {}"), "cut": ("Cut", "at most {} s"),
    "mp3": ("Codec", "MP3 {}"), "vorbis": ("Codec", "Vorbis {}"), "opus": ("Codec", "Opus {}"),
    "g722": ("Codec", "G.722 {}"), "g711": ("Codec", "G.711 {}"), "gsm": ("Codec", "GSM {}"),
}  # fmt: skip
COSTS = "{:g}\u00a0% of trials are fakes, a real voice called fake costs {:g}, a fake let through {:g}"
ON_PURPOSE = {"none": "Unchanged", "random": "Random change", "fgsm": "FGSM", "pgd": "PGD"}


def values(results: Mapping, used: pd.DataFrame, provenance: list[tuple[str, str]]) -> dict:
    """Collect what the template model_card.html.j2 shows.

    Parameters
    ----------
    results
        By name of the files in metrics/tables/: `alarms`, `extract`, `train`, `operating_points`, `calibration`,
        `audit` (may be empty or partial); in metrics/: `by_attack`, `by_speaker`; `headline` and `narrow`, the parts of
        metrics/tables/eval.csv; `network` and `detector`, the JSON files of models/.
    used
        As `datasheet.values`.
    provenance
        (name, value) pairs of the index page.

    Returns
    -------
    values
        Texts and tables by name.
    """
    headline, narrow = results["headline"], results["narrow"]
    detector, audit = results["detector"], results["audit"]
    sources = _by_source(results["by_speaker"])
    held_out = audit.get("held_out", {})
    return {
        "facts": _facts(results) + [(name, text) for name, text in provenance if name in MADE],
        "settings": _settings(results["network"]),
        "heard": _heard(used[used["split"] == "train"]),
        "data": {split: line for split in datasheet.SPLITS if (line := _split(used[used["split"] == split]))},
        "copies": results["extract"].get("copies", 0),
        "test_set": results["extract"]["test_set"],
        "alarms": results["alarms"]["alarms"],
        "tables": {
            f"{words}, with 95 % intervals": evaluation.headline_table(
                {condition: _shown(row) for condition, row in table.items()}
            )
            for words, table in (("Eval", headline), ("Telephone speech, measured apart", narrow))
            if table
        },
        "attacks": _worst(_by_attack(results["by_attack"])),
        "sources": _worst(evaluation.readable(sources)),
        "wear": _wear(audit.get("conditions", {})),
        "on_purpose": _on_purpose(audit.get("adversarial", {})),
        "left_out": {
            "Kinds of attack left out of training in turn": _worst(_attacks_left_out(held_out.get("attack", {}))),
            "Sources of real voices left out of training in turn": _worst(
                _sources_left_out(held_out.get("source", {}))
            ),
        },
        "reference": _cell(held_out.get("reference", {}).get("reference", {}), "eer"),
        "policies": evaluation.operating_points_table(results["operating_points"], detector),
        "calibrated": _calibrated(results["calibration"], detector),
        "caveats": _caveats(headline, narrow, sources, detector, audit, used),
    }


def wear(name: str) -> tuple[str, str] | None:
    """Kind and description of a degradation of the audit, such as `white_20`; None for other conditions."""
    start, _, rest = name.partition("_")
    kind, words = WEAR.get(start, ("", ""))
    return (kind, words.format(rest).strip()) if kind else None


# Description and training data.


def _facts(results: Mapping) -> list[tuple[str, str]]:
    network, detector, trained = (results[name] for name in ("network", "detector", "train"))
    model, train = (network.get(name, {}) for name in ("model", "train"))
    name = model.get("name", "")
    recipe = {"loss": "loss {}", "lr": "learning rate {:g}", "batch_size": "batches of {}"}
    how = [words.format(train[key]) for key, words in recipe.items() if key in train]
    if "best_epoch" in trained:
        of = f" of {trained['epochs']}" if "epochs" in trained else ""
        how.append(f"epoch {trained['best_epoch']}{of} kept, the best on dev")
    if "seed" in network:
        how.append(f"seed {network['seed']}")
    facts = {
        "Network": f"{name}: {NETWORKS[name]}" if name in NETWORKS else name,
        "Parameters": f"{network['parameters']:,}" if "parameters" in network else "",
        "It is given": _input(network.get("features", {})),
        "Recipe": ", ".join(how),
        "Decides by": f"policy {detector['policy']}{_below(detector)}",
    }
    return [(words, text) for words, text in facts.items() if text]


def _below(detector: Mapping) -> str:
    threshold = detector.get("thresholds", {}).get(detector["policy"])
    return "" if threshold is None else f": fake below an LLR of {threshold:.2f}"


def _input(features: Mapping) -> str:
    rate, size, hop = (features.get(name) for name in ("sample_rate", "n_fft", "hop_length"))
    parts = [str(features.get("kind", ""))]
    if size and hop and parts[0] not in ("waveform", "wav2vec2"):
        parts.append(f"windows of {1000 * size / rate:g} ms, every {1000 * hop / rate:g} ms")
    return ", ".join([*parts, f"of sound at {rate / 1000:g} kHz"]) if rate else parts[0]


def _settings(network: Mapping) -> pd.DataFrame:
    rows = [
        {"Setting": f"{section}.{key}", "Value": ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
        for section in ("features", "model", "augment", "train")
        for key, value in network.get(section, {}).items()
    ]
    return pd.DataFrame(rows)


def _heard(train: pd.DataFrame) -> dict[str, str]:
    """Languages and recording chains of bona fide speech in train; empty if unknown."""
    real = train[train["label"] == "bonafide"]
    languages = sorted({datasheet.LANGUAGES.get(code, code) for code in set(real["language"]) - {""}})
    chains = sorted({datasheet.CHAINS.get(name, name) for name in set(real["codec"]) - {""}})
    return {"languages": ", ".join(languages), "chains": "; ".join(chains)}


def _split(rows: pd.DataFrame) -> str:
    """Describe a split in one line; empty if it has no utterances."""
    real, fakes = (rows[rows["label"] == label] for label in ("bonafide", "spoof"))
    if rows.empty:
        return ""

    def different(group, column, one, before):
        count = group.loc[group[column] != "", column].nunique()
        return f" {before} {_many(count, one)}" if count else ""

    words = f"{rows['seconds'].sum() / 3600:.1f} hours: {_many(len(real), 'real recording')}"
    words += different(real, "speaker", "speaker", "of") + different(real, "language", "language", "in")
    return f"{words}; {_many(len(fakes), 'fake')}" + different(fakes, "attack", "kind", "of")


# Errors.


def _shown(row: Mapping) -> dict:
    return {key + end: row[key + end] for key in SHOWN for end in ("", "_low", "_high") if key + end in row}


def _cell(row: Mapping, key: str) -> str:
    """A measure with its interval in percent; empty if it is missing."""
    return evaluation.interval(row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high"))


def _worst(table: pd.DataFrame) -> dict:
    return {"table": table.head(MOST), "of": len(table)}


def _by_attack(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["attack", "condition", "n_spoof", "eer", "spoof_accepted"]
    worst = table.sort_values(["eer", "spoof_accepted"], ascending=False, kind="stable")
    return evaluation.readable(worst[columns].dropna(axis=1, how="all"))


def _by_source(table: pd.DataFrame) -> pd.DataFrame:
    """Bona fide recordings by source, highest rejection rate first; empty if sources are unknown."""
    real = table[(table["n_bonafide"] > 0) & table["source"].notna() & (table["source"] != "")]
    rejected = (real["n_bonafide"] * real["bonafide_rejected"]).round().astype(int)  # the file holds shares
    groups = real.assign(rejected=rejected).groupby("source", sort=True)
    found = groups.agg(speakers=("speaker", "nunique"), n_bonafide=("n_bonafide", "sum"), rejected=("rejected", "sum"))
    found["bonafide_rejected"] = found["rejected"] / found["n_bonafide"]
    found = found.sort_values("bonafide_rejected", ascending=False, kind="stable").reset_index()
    return found.rename(columns={"rejected": "Called fake"})


def _wear(conditions: Mapping[str, Mapping]) -> pd.DataFrame:
    """Clean speech, then each kind of degradation at its worst and its mildest, the worst kind first."""
    kinds: dict[str, list] = {}
    for name, row in conditions.items():
        if "eer" in row and (found := wear(name)):
            kinds.setdefault(found[0], []).append((row["eer"], found[1], row))
    if "eer" not in conditions.get("clean", {}) or not kinds:
        return pd.DataFrame()
    rows = [("Clean, as they are", conditions["clean"], "")]
    for kind, of in sorted(kinds.items(), key=lambda one: -_eer(max(one[1], key=_eer))):
        (_, words, row), (least, mild, _) = max(of, key=_eer), min(of, key=_eer)
        rows.append((f"{kind}: {words}", row, f"{100 * least:.1f} ({mild})" if len(of) > 1 else ""))
    return pd.DataFrame(
        {
            "Wear, at its worst": words,
            "Equal error rate (%)": _cell(row, "eer"),
            "Real voices called fake (%)": _cell(row, "bonafide_rejected"),
            "Fakes let through (%)": _cell(row, "spoof_accepted"),
            "Equal error rate at its mildest (%)": mildest,
        }
        for words, row, mildest in rows
    )


def _eer(one: tuple) -> float:
    return one[0]


def _on_purpose(attacks: Mapping[str, Mapping]) -> pd.DataFrame:
    rows = []
    for method in sorted(attacks, key=list(ON_PURPOSE).index):
        by_strength = all(isinstance(row, Mapping) for row in attacks[method].values())
        strengths = attacks[method] if by_strength else {"": attacks[method]}
        for db in sorted(strengths, key=lambda db: -float(db or 0)):
            row = strengths[db]
            rows.append(
                {
                    "Change": ON_PURPOSE[method] + (f", {db} dB below" if db else ""),
                    "Fakes caught before that pass now (%)": _cell(row, "success") if db else "",
                    "Fakes let through (%)": _cell(row, "spoof_accepted"),
                    "Equal error rate (%)": _cell(row, "eer"),
                }
            )
    return pd.DataFrame(rows)


def _attacks_left_out(attacks: Mapping[str, Mapping]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Attack": name,
            "Its fakes": str(int(row.get("n_held_out", 0))),
            "Equal error rate (%)": _cell(row, "eer"),
            "Its fakes in dev (%)": _cell(row, "on_dev"),
            "The same, had it been learnt (%)": _cell(row, "on_dev_reference"),
        }
        for name, row in sorted(attacks.items(), key=lambda one: -one[1].get("eer", -1))
    )


def _sources_left_out(sources: Mapping[str, Mapping]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Source": name,
            "Its recordings": str(int(row.get("n_held_out", 0))),
            "Called fake (%)": _cell(row, "bonafide_rejected"),
            "Against copies of them: equal error rate (%)": _cell(row, "eer"),
        }
        for name, row in sorted(sources.items(), key=lambda one: -one[1].get("bonafide_rejected", -1))
    )


# Calibration and caveats.


def _calibrated(calibration: Mapping, detector: Mapping) -> dict[str, str]:
    """Cllr (bits) on dev before and after calibration, and the costs, as text; empty where missing."""
    cllr = {name: row["cllr"] for name, row in calibration.items() if isinstance(row, Mapping) and "cllr" in row}
    costs = [detector.get(name) for name in ("prior_spoof", "cost_miss", "cost_false_alarm")]
    return {
        "method": calibration.get("method", ""),
        "policy": detector["policy"],
        "cllr": {name: f"{cllr[name]:.2f}" if name in cllr else "" for name in ("before", "held_out", "after")},
        "costs": "" if None in costs else COSTS.format(100 * costs[0], *costs[1:]),
    }


def _caveats(headline, narrow, sources, detector, audit, used) -> list[tuple[str, str]]:
    """(topic, what the numbers say), for topics with numbers."""
    found = {}
    if {"known", "unseen"} <= headline.keys():
        known, unseen = (_percent(headline[name].get("spoof_accepted")) for name in ("known", "unseen"))
        found["New machines"] = f"of fakes of kinds that it never met {unseen} pass, of known kinds {known}"
    first = headline.get("all") or next(iter(headline.values()), {})
    if first and "dev_eer" in detector:
        found["The threshold"] = (
            f"chosen on dev, where the equal error rate is {_percent(detector['dev_eer'])}, it calls "
            f"{_percent(first.get('bonafide_rejected'))} of eval's real voices fake and lets "
            f"{_percent(first.get('spoof_accepted'))} of its fakes through; elsewhere the shares will be others"
        )
    useless = {name: row["cllr"] for name, row in headline.items() if row.get("cllr", 0) > 1}
    if useless:
        kinds = ", ".join(f"{evaluation.CONDITIONS[name].lower()} {cllr:.2f} bits" for name, cllr in useless.items())
        found["Likelihood ratios"] = f"Cllr is above 1 ({kinds}): there, to ignore them is better than to trust them"
    if narrow:
        row = narrow.get("all") or next(iter(narrow.values()))
        found["The telephone"] = (
            f"over it {_percent(row.get('bonafide_rejected'))} of real voices are called fake, and "
            f"{_percent(row.get('spoof_accepted'))} of fakes pass"
        )
    if len(sources) > 1:
        least, most = (
            f"{_percent(row['bonafide_rejected'])} ({row['source']})" for _, row in sources.iloc[[-1, 0]].iterrows()
        )
        found["Not everybody alike"] = f"from {least} to {most} of real voices are called fake, by where they come from"
    success = [
        row["success"]
        for strengths in audit.get("adversarial", {}).values()
        for row in strengths.values()
        if isinstance(row, Mapping) and "success" in row
    ]
    if success:
        found["Attacks on purpose"] = (
            f"somebody who has it can make up to {_percent(max(success))} of the fakes it catches pass"
        )
    people = used.loc[(used["split"] == "eval") & (used["label"] == "bonafide") & (used["speaker"] != ""), "speaker"]
    if len(people):
        found["Few witnesses"] = f"eval has {_many(people.nunique(), 'real speaker')}: read the ends of the intervals"
    return [*found.items(), *(("Alarm of the audit", alarm) for alarm in audit.get("alarms", []))]


def _percent(value: float | None) -> str:
    return "an unknown share" if value is None or math.isnan(value) else f"{100 * value:.1f}\u00a0%"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one if count == 1 else one + 's'}"
