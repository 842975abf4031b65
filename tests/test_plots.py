"""Figures: that they can be drawn from what the tables give, and say what the data say.

| what | against |
|---|---|
| every figure | drawn without warnings, title, labelled axes, the same bytes twice, nothing left open |
| PNG | no software, date or version inside |
| show, show_table | alt text for screen readers, captions and marked headings, no object addresses |
| counts, rates and thresholds that a figure prints | the data |
| MFCC | of a real recording |
| figures of a corpus | every split, class, panel and picture that the data have; the same bytes twice |
| intervals | dots, and whiskers where the table has them |
| shortcuts | dots, whiskers, limits and the detector where the numbers have them |
| robustness | dots, whiskers and the reference line where the table has them |
"""

import base64
import re
import warnings

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.colors import to_hex

from aasist_lib import evaluation, metrics, plots
from aasist_lib.audit import figures
from aasist_lib.base.errors import UserError


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    kinds = [("bonafide", "", ""), ("spoof", "vocoder", "known"), ("spoof", "neural", "unseen")]
    rows = [(*kind, split, f"voice{i % 5}") for split in ("train", "eval") for kind in kinds for i in range(60)]
    table = pd.DataFrame(rows, columns=["label", "attack", "condition", "split", "speaker"])
    table["llr"] = table["attack"].map({"": 2.0, "vocoder": -2.0, "neural": 0.0}) + rng.normal(0, 1, len(table))
    table["seconds"] = rng.uniform(1.5, 8, len(table))
    table["source"] = table["speaker"].replace("voice1", "voice0")
    return table


@pytest.fixture(scope="module")
def trials(scores) -> dict:
    return {name: evaluation.split_classes(evaluation.select(scores, name)) for name in ("known", "unseen")}


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    epoch = np.arange(1, 6)
    return pd.DataFrame(
        {"epoch": epoch, "train_loss": 1 / epoch, "dev_loss": 1.2 / epoch, "dev_eer": [0.3, 0.25, 0.18, 0.2, 0.22]}
    )


def drawn(draw, *arguments, **options):
    """The figure, drawn twice to the same bytes and without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(*arguments, **options)
        assert plots.png(figure) == plots.png(draw(*arguments, **options))
    return figure


FIGURES = {
    "confusion": lambda s, t, h: plots.confusion(evaluation.confusion_table(s, 0)),
    "det": lambda s, t, h: plots.det(t),
    "histogram": lambda s, t, h: plots.score_histogram(s, {"equal_error": 0.5, "min_cost": -1.0}),
    "histogram, no conditions": lambda s, t, h: plots.score_histogram(s.assign(condition=""), 0.5),
    "reliability": lambda s, t, h: plots.reliability(t),
    "bars": lambda s, t, h: plots.bars(
        evaluation.by_attack(s, 0), "attack", "eer", "condition", title="By attack", label="EER (%)", guess=0.5
    ),
    "bars, no groups": lambda s, t, h: plots.bars(
        evaluation.by_human(s, 0), "source", "bonafide_rejected", title="By source", label="called fake (%)"
    ),
    "history": lambda s, t, h: plots.history(h),
    "durations": lambda s, t, h: plots.durations(s),
    "counts": lambda s, t, h: plots.counts(s),
    "counts by source": lambda s, t, h: plots.counts(s, "source"),
    "attention": lambda s, t, h: plots.attention(
        {n: (np.eye(19, 80), np.full((4, 20, 20), 0.05), np.full(20, 0.05)) for n in ("real", "fake")}, frame_rate=100
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure(name, scores, trials, history):
    figure = drawn(FIGURES[name], scores, trials, history)
    png = plots.png(figure)  # drawing a figure again moves nothing
    assert png == plots.png(figure)
    assert png.startswith(b"\x89PNG") and b"Software" not in png and b"tEXt" not in png
    assert not plt.get_fignums()
    assert figure.get_suptitle() or all(ax.get_title("left") for ax in figure.axes)
    assert all(ax.get_xlabel() or ax.get_ylabel() for ax in figure.axes)


def test_confusion_prints_counts_and_shares(scores):
    figure = plots.confusion(evaluation.confusion_table(scores, 0.0))
    for ax, condition in zip(figure.axes, ("known", "unseen"), strict=True):
        assert ax.get_title("left") == f"{condition.capitalize()} attacks"
        found = [text.get_text() for text in ax.texts]
        counts = metrics.confusion(*evaluation.split_classes(evaluation.select(scores, condition)), 0.0)
        rejected = 100 * counts["fp"] / (counts["fp"] + counts["tn"])
        assert [int(text.split("\n")[0]) for text in found] == [counts[name] for name in ("tn", "fp", "fn", "tp")]
        assert found[1].endswith(f"\n{rejected:.1f} % of row")


def test_confusion_of_one_class_and_one_answer():
    cell = {"condition": ["known"], "actual": ["spoof"], "predicted": ["spoof"], "trials": [3]}
    figure = plots.confusion(pd.DataFrame(cell))
    assert [t.get_text().split("\n")[0] for t in figure.axes[0].texts] == ["0", "0", "0", "3"]


def test_det_prints_equal_error_rates(trials):
    legend = [text.get_text() for text in plots.det(trials).axes[0].get_legend().get_texts()]
    assert legend == [f"{name}: EER {100 * metrics.eer(*pair).value:.1f} %" for name, pair in trials.items()]


def test_histogram_tells_sizes_and_thresholds(scores):
    figure = plots.score_histogram(scores, {"equal_error": 0.5, "min_cost": -1.25})
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [
        "real voices (120)",
        "fakes, known attacks (120)",
        "fakes, unseen attacks (120)",
        "equal error: 0.50",
        "min cost: -1.25",
    ]


def test_classes_differ_in_colour_and_in_shape(scores):
    legend = plots.durations(scores).axes[0].get_legend()
    (line,), (area,) = legend.get_lines(), legend.get_patches()
    assert line.get_linestyle() == "--" and to_hex(line.get_color()) == plots.KNOWN.lower()
    assert to_hex(area.get_edgecolor()) == plots.BONAFIDE.lower()
    names = ["Known attacks", "Unseen attacks", "real voices"]
    assert plots._colours(names) == [plots.KNOWN, plots.UNSEEN, plots.BONAFIDE]


def test_history_marks_the_best_epoch(history):
    legend = plots.history(history).axes[1].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["best: epoch 3, 18.0 %"]


def test_reliability_of_perfect_scores_is_the_diagonal():
    rng = np.random.default_rng(0)
    bonafide, spoof = 2 * rng.normal(1, 1, 20000), 2 * rng.normal(-1, 1, 20000)  # their LLR is twice the score
    line = plots.reliability({"good": (bonafide, spoof), "boastful": (3 * bonafide, 3 * spoof)}).axes[0].lines
    assert np.abs(line[1].get_xdata() - line[1].get_ydata()).max() < 3
    assert np.abs(line[2].get_xdata() - line[2].get_ydata()).max() > 10


def test_attention_shows_where_and_when():
    between = np.zeros((2, 30, 30))
    between[0, 3, 7], between[1, 3, 7] = 0.2, 0.4
    pooling = np.eye(30)[10]
    figure = plots.attention({"real": (np.zeros((19, 120)), between, pooling)}, frame_rate=100)
    top, middle, bottom = figure.axes
    assert middle.images[0].get_array()[3, 7] == pytest.approx(0.3)  # of the heads' mean
    assert middle.images[0].get_extent() == [0, 1.2, 1.2, 0] and top.images[0].get_extent() == [0, 1.2, 0.5, 19.5]
    peak = max(bottom.collections[0].get_paths()[0].vertices, key=lambda point: point[1])
    assert peak == pytest.approx([1.2 * 10 / 29, 100])


def test_mfcc_of_a_recording(speech_files):
    wave, rate = soundfile.read(speech_files[0], always_2d=True)
    wave = wave.mean(axis=1)
    features = librosa.feature.mfcc(y=wave, sr=rate, n_mfcc=20, n_fft=512, hop_length=rate // 100, n_mels=64)
    figure = plots.mfcc(np.vstack([features, features]), frame_rate=100, channels=2)
    pictures = [ax for ax in figure.axes if ax.images]
    assert len(pictures) == 2 and pictures[0].images[0].get_array().shape == features.shape
    assert pictures[-1].get_xlim()[1] == pytest.approx(len(wave) / rate, abs=0.02)
    assert plots.png(figure)
    with pytest.raises(UserError, match="3 channels"):
        plots.mfcc(features, frame_rate=100, channels=3)


@pytest.fixture
def displayed(monkeypatch) -> list:
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: calls.append((data, options)))
    return calls


def test_show_describes_the_picture(displayed, history):
    plots.show(plots.history(history), "Learning curve; best epoch 3")
    data, options = displayed[0]
    about = options["metadata"]["image/png"]
    assert options["raw"] and about["alt"] == data["text/plain"] == "Learning curve; best epoch 3"
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert (about["width"], about["height"]) == (int(8.4 * 96), int(3.4 * 96))


def test_alarms_are_shown_and_told(displayed, capsys):
    plots.show_alarms(["<polarity> inverted", "no spoofed trials"])
    assert capsys.readouterr().err.splitlines() == ["!! ALARM: <polarity> inverted", "!! ALARM: no spoofed trials"]
    (data, _), *_ = displayed
    assert data["text/html"].count('role="alert"') == 2 and "&lt;polarity&gt;" in data["text/html"]
    plots.show_alarms([])
    assert "role" not in displayed[-1][0]["text/html"] and not capsys.readouterr().err


def test_tables_can_be_read_aloud(displayed):
    table = pd.DataFrame({"Attack": ["<b>hts</b>", "copy"], "Fakes": [3, 4]})
    plots.show_table(table, "Fakes & attacks")
    html, plain = displayed[0][0]["text/html"], displayed[0][0]["text/plain"]
    assert "<caption>Fakes &amp; attacks</caption>" in html and "&lt;b&gt;" in html
    assert re.findall(r'<th scope="col">(.*?)</th>', html) == ["Attack", "Fakes"]
    assert len(re.findall(r'<th scope="row">', html)) == 2 and html.count("<td>") == 2
    assert "0x" not in html + plain and plain.startswith("Fakes & attacks\n")


def test_robustness_shows_every_condition_with_its_interval():
    rows = [
        ("clean", "robustness", "Clean", "As they are", 0.1, 0.05, 0.15),
        ("white_0", "robustness", "Noise", "White noise", 0.4, 0.3, 0.45),
        ("gsm", "robustness", "Codec", "GSM", 0.25, 0.2, 0.35),
        ("level", "uses", "Level", "All as loud", 0.12, 0.06, 0.2),
        ("nothing", "uses", "Level", "No scores", np.nan, np.nan, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["condition", "family", "kind", "words", "eer", "eer_low", "eer_high"])
    figure = drawn(figures.robustness, table, "Held up")
    first, second = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == ["What happens to recordings", "What the detector goes by"]
    assert figure.get_suptitle() == "Held up" and "interval" in second.get_xlabel()
    assert [text.get_text() for text in first.get_yticklabels()] == ["White noise   40.0", "GSM   25.0"]
    assert [text.get_text() for text in second.get_yticklabels()] == ["All as loud   12.0"]
    whiskers = np.concatenate([path.vertices[:, 0] for path in first.containers[0].lines[2][0].get_paths()])
    assert whiskers == pytest.approx([30, 45, 20, 35])
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["as they are: 10.0 %"]
    assert first.lines[-1].get_xdata() == pytest.approx([10, 10])
    alone = figures.robustness(table[table["family"] == "robustness"].drop(columns=["eer_low", "eer_high"]))
    assert len(alone.axes) == 1 and plots.png(alone)


def test_intervals():
    rows = [
        ("detector", "detector", 0.17, 0.05, 0.29),
        ("silence", "shortcut", 0.36, np.nan, np.nan),
        ("nothing", "shortcut", np.nan, np.nan, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["words", "kind", "eer", "eer_low", "eer_high"])
    figure = drawn(plots.intervals, table, "words", "kind", title="Beside", label="equal error rate (%)")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["detector   17.0", "silence   36.0"]
    assert ax.get_title("left") == "Beside" and ax.get_xlabel() == "equal error rate (%)"
    whiskers = ax.containers[0].lines[2][0].get_paths()[0].vertices[:, 0]
    assert whiskers == pytest.approx([5, 29])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["guessing", "detector", "shortcut"]
    empty = plots.intervals(table.head(0), "words", "kind", title="None", label="x")
    assert plots.png(empty)


def test_figures_of_a_corpus(scores):
    """Durations by split, levels, spectra, spectrograms: as the datasheet shows them."""
    label, rng = np.array(["bonafide", "spoof"] * 5), np.random.default_rng(1)
    spectrum = np.where(label[:, None] == "spoof", -40.0, -30.0) + rng.normal(0, 1, (10, 64))
    words = ["recording", "a", "b", "c", "d"]
    table = pd.concat([scores, scores[scores["split"] == "eval"].assign(split="narrow")])
    durations = drawn(plots.durations_by_split, table)
    levels = drawn(plots.levels, np.full(10, -26.0), np.arange(10.0), label)
    spectra = drawn(plots.spectra, {"wide": (spectrum, label), "real": (spectrum[::2], label[::2])}, 16000)
    spectrograms = drawn(plots.spectrograms, dict.fromkeys(words, np.eye(40, 100)), 16000, 50, "Five")
    assert [ax.get_title("left") for ax in durations.axes] == ["train", "eval", "narrow"]
    legends = [text.get_text() for ax in levels.axes for text in ax.get_legend().get_texts()]
    assert legends == ["real voices (5)", "fakes (5)"] * 2
    wide, real = spectra.axes
    assert len(wide.lines) == 2 and len(real.lines) == 1
    real_line, fake_line = (line.get_ydata() for line in wide.lines)
    assert np.mean(real_line - fake_line) == pytest.approx(10, abs=0.5)
    assert wide.lines[0].get_xdata()[[0, -1]] == pytest.approx([0.0625, 7.9375])  # middles of bands of 125 Hz
    shown = [ax for ax in spectrograms.axes if ax.axison]
    assert [ax.get_title("left") for ax in shown] == words and all(ax.get_images() for ax in shown)
    assert shown[0].get_images()[0].get_extent() == [0, 2, 0, 8]


def test_shortcuts_beside_the_detector():
    def row(*values):
        return dict(zip(("eer", "eer_low", "eer_high"), values, strict=False))

    results = {
        "silence": {"known": row(0.2, 0.1, 0.4), "unseen": row(0.3, 0.25, 0.5), "all": row(0.25, 0.15, 0.45)},
        "all": {"known": row(0.45, 0.4, 0.6), "all": row(0.55)},  # no unseen attacks; no interval
    }
    limits = {"limit": 0.34, "limit_all": 0.28, "words": {"all": "all of these cues"}}
    detector = {"known": row(0.05, 0.01, 0.1), "unseen": row(0.12, 0.02, 0.3), "all": row(0.08, 0.01, 0.2)}
    figure = drawn(figures.shortcuts, results, detector, "Cheap tricks", **limits)
    (ax,) = figure.axes
    assert ax.get_title("left") == "Cheap tricks" and "interval" in ax.get_xlabel() and ax.yaxis_inverted()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["silence", "all of these cues", "the detector"]
    known, unseen, every = ax.containers
    assert [c.get_label() for c in ax.containers] == ["known attacks", "unseen attacks", "all attacks"]
    assert known.lines[0].get_xdata() == pytest.approx([20, 45, 5])
    assert unseen.lines[0].get_xdata() == pytest.approx([30, 12])
    assert [round(y) for y in unseen.lines[0].get_ydata()] == [0, 2]
    whiskers = np.concatenate([path.vertices[:, 0] for path in every.lines[2][0].get_paths()])
    assert whiskers == pytest.approx([15, 45, 55, 55, 1, 20])
    looks = {(to_hex(c.lines[0].get_color()), c.lines[0].get_marker()) for c in ax.containers}
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 3
    upright = [tuple(line.get_xdata()) for line in ax.lines if len(set(line.get_xdata())) == 1]
    assert [x[0] for x in upright if len(x) == 2] == pytest.approx([34, 28, 50])  # limits, then guessing
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend.count("guessing") == 1 and sum("limit" in text for text in legend) == 1
    assert len(figures.shortcuts(results, {}, **limits).axes[0].get_yticklabels()) == 2
