"""Figures of the notebooks and reports; `audit.figures` has those of the audits.

Every function returns a matplotlib Figure; `show` displays it in a notebook with a text description. Colours are those
of Okabe and Ito (2008), safe for colour-blind readers; line styles and hatches repeat them for print. The same data
give the same bytes.
"""

import base64
import html
import io
import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from scipy.stats import norm

from aasist_lib import metrics
from aasist_lib.base.errors import UserError

BONAFIDE, KNOWN, UNSEEN, GREY = "#0072B2", "#D55E00", "#CC79A7", "#595959"
COLOURS = {"bonafide": BONAFIDE, "spoof": KNOWN, "known": KNOWN, "unseen": UNSEEN}
NAMES = {"bonafide": "real voices", "spoof": "fakes"}
LINES = ["-", "--", "-.", ":"] * 4
DPI = 144
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def png(fig: Figure) -> bytes:
    """Figure as PNG; the same figure gives the same bytes: fixed resolution, no software name or date."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        fig.draw_without_rendering()
        fig.set_layout_engine("none")  # constrained layout would shift with every rendering
        fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Display a figure in a notebook, at 96 dpi; `alt` describes it for screen readers."""
    from IPython.display import display

    width, height = (int(96 * inches) for inches in fig.get_size_inches())
    display(
        {"image/png": base64.b64encode(png(fig)).decode("ascii"), "text/plain": alt},
        metadata={"image/png": {"alt": alt, "width": width, "height": height}},
        raw=True,
    )


def show_alarms(
    found: list[str],
    fine: str = "No alarm: polarity, classes, ties, missing numbers and dev against eval were checked.",
) -> None:
    """Display the sentences of `evaluation.alarms` in a notebook and on standard error; `fine` if there are none."""
    from IPython.display import display

    for sentence in found:
        print(f"!! ALARM: {sentence}", file=sys.stderr)
    style = "border: 3px solid #b00020; padding: 0.5em 1em; font-weight: bold"
    boxes = [f'<p role="alert" style="{style}">Alarm: {html.escape(sentence)}</p>' for sentence in found]
    display({"text/html": "\n".join(boxes or [f"<p>{fine}</p>"]), "text/plain": "\n".join(found or [fine])}, raw=True)


def show_table(table: pd.DataFrame, caption: str) -> None:
    """Display a table in a notebook as HTML with a caption; the first column names the rows."""
    from IPython.display import display

    text = table.to_html(index=False, border=0, escape=True, justify="left")
    text = text.replace("<thead>", f"<caption>{html.escape(caption)}</caption>\n  <thead>", 1)
    text = text.replace("<th>", '<th scope="col">')
    # the first cell of a row names it
    text = re.sub(r"(<tr>\s*)<td>(.*?)</td>", r'\1<th scope="row">\2</th>', text)
    plain = f"{caption}\n{table.to_string(index=False)}"
    display({"text/html": text, "text/plain": plain}, raw=True)


@rc_context(STYLE | {"axes.grid": False})
def counts(table: pd.DataFrame, column: str = "attack", title: str = "Utterances") -> Figure:
    """Heatmap of the number of utterances by `column`, split and class; an empty attack is bona fide."""
    names = table[column].where(table[column] != "", "real voices" if column == "attack" else "(none)")
    splits = [split for split in ("train", "dev", "eval", "narrow") if (table["split"] == split).any()]
    columns = [(split, label) for split in splits for label in NAMES if column != "attack"] or splits
    keys = [table["split"]] if column == "attack" else [table["split"], table["label"]]
    numbers = pd.crosstab(names, keys).reindex(columns=columns, fill_value=0)
    numbers = numbers.loc[sorted(numbers.index, key=lambda name: (name != "real voices", name))]
    fig, (ax,) = new_figure(1.8 + 0.12 * names.str.len().max() + 0.8 * len(columns), 1.4 + 0.27 * len(numbers))
    sns.heatmap(
        np.log1p(numbers.to_numpy()), annot=numbers.map(lambda n: str(n) if n else "").to_numpy(), fmt="",
        cmap="Blues", vmin=0, cbar=False, linewidths=0.5, linecolor="#eeeeee", ax=ax,
        annot_kws={"fontsize": 9},
    )  # fmt: skip
    ax.set_xticks(np.arange(len(columns)) + 0.5)
    ax.set_xticklabels([x if isinstance(x, str) else f"{x[0]}\n{NAMES[x[1]]}" for x in columns], rotation=0, fontsize=9)
    ax.set_yticks(np.arange(len(numbers)) + 0.5)
    ax.set_yticklabels(numbers.index, rotation=0, fontsize=9)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel=column, title=title)
    return fig


@rc_context(STYLE)
def durations(table: pd.DataFrame, title: str = "Length of the utterances") -> Figure:
    """Distribution of durations by class; they should not tell the classes apart."""
    bins = np.linspace(0, np.quantile(table["seconds"], 0.995), 41)
    fig, (ax,) = new_figure(7.2, 3.4)
    for (label, words), style in zip(NAMES.items(), LINES, strict=False):
        seconds = table.loc[table["label"] == label, "seconds"]
        seconds = np.clip(seconds, None, bins[-1])
        _steps(ax, seconds, bins, COLOURS[label], style, words, fill=label == "bonafide")
    ax.set(xlabel="length (s)", ylabel="share of its class (%)", title=title)
    ax.legend()
    return fig


@rc_context(STYLE)
def durations_by_split(table: pd.DataFrame, title: str = "Length of the utterances") -> Figure:
    """Distribution of durations by class, one panel per split."""
    splits = [split for split in ("train", "dev", "eval", "narrow") if (table["split"] == split).any()]
    bins = np.linspace(0, np.quantile(table["seconds"], 0.995), 25)
    fig, axes = new_figure(1.2 + 2.3 * len(splits), 3.0, columns=len(splits))
    for ax, split in zip(axes, splits, strict=True):
        rows = table[table["split"] == split]
        for (label, words), style in zip(NAMES.items(), LINES, strict=False):
            seconds = np.clip(rows.loc[rows["label"] == label, "seconds"], None, bins[-1])
            _steps(ax, seconds, bins, COLOURS[label], style, words, fill=label == "bonafide")
        ax.set(xlabel="length (s)", ylabel="share of its class (%)" if ax is axes[0] else "", title=split)
        ax.set_ylim(top=1.4 * ax.get_ylim()[1])  # room for the legend
        ax.legend(fontsize=8, loc="upper left", borderaxespad=0.2)
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def levels(level: np.ndarray, peak: np.ndarray, label: np.ndarray, title: str = "How loud they are") -> Figure:
    """Distributions of speech level and peak (dBFS) by class."""
    fig, axes = new_figure(8.4, 3.2, columns=2)
    for ax, values, words in zip(axes, (level, peak), ("level of the voiced parts", "largest sample"), strict=True):
        low, high = np.floor(values.min()) - 1, np.ceil(values.max()) + 1
        for (name, shown), style in zip(NAMES.items(), LINES, strict=False):
            of_class, bins = values[label == name], np.linspace(low, high, 25)
            _steps(ax, of_class, bins, COLOURS[name], style, shown, fill=name == "bonafide")
        ax.set(xlabel="level (dB, full scale: 0)", ylabel="share of its class (%)", title=words.capitalize())
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])
        ax.legend(fontsize=8, loc="upper left", borderaxespad=0.2)
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def spectra(groups: Mapping[str, tuple], sample_rate: float, title: str = "Average spectra") -> Figure:
    """Average spectra (n, bands) in dB by class, one panel per group; the area is ± one standard deviation."""
    fig, axes = new_figure(1.4 + 4.2 * len(groups), 3.6, columns=len(groups))
    for ax, (name, (spectrum, label)) in zip(axes, groups.items(), strict=True):
        kilohertz = (np.arange(spectrum.shape[1]) + 0.5) * sample_rate / 2000 / spectrum.shape[1]
        for (kind, words), style in zip(NAMES.items(), LINES, strict=False):
            ours = spectrum[label == kind]
            if not len(ours):
                continue
            mean, spread = ours.mean(axis=0), ours.std(axis=0)
            ax.fill_between(kilohertz, mean - spread, mean + spread, color=COLOURS[kind], alpha=0.18, linewidth=0)
            ax.plot(kilohertz, mean, style, color=COLOURS[kind], linewidth=1.8, label=f"{words} ({len(ours)})")
        ax.set(xlabel="frequency (kHz)", ylabel="power of a band (dB of the total)", title=name)
        ax.set_xlim(0, sample_rate / 2000)
        ax.legend(loc="upper right")
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE | {"axes.grid": False})
def spectrograms(pictures: Mapping[str, np.ndarray], sample_rate: float, frame_rate: float, title: str) -> Figure:
    """Spectrograms (bins, frames) of the same words side by side, on one scale, from 0 Hz to half the sample rate."""
    rows = -(-len(pictures) // 4)
    columns = -(-len(pictures) // rows)
    fig, axes = new_figure(0.8 + 2.1 * columns, 0.7 + 1.9 * rows, rows=rows, columns=columns)
    highest = max(picture.max() for picture in pictures.values())
    for i, (ax, (name, picture)) in enumerate(zip(axes, pictures.items(), strict=False)):
        ax.imshow(
            picture, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=highest, interpolation="nearest",
            extent=(0, picture.shape[1] / frame_rate, 0, sample_rate / 2000),
        )  # fmt: skip
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=8)
        if i % columns == 0:
            ax.set_ylabel("frequency (kHz)", fontsize=8)
        if i + columns >= len(pictures):
            ax.set_xlabel("time (s)", fontsize=8)
    for ax in axes[len(pictures) :]:
        ax.set_axis_off()
    fig.suptitle(title, fontweight="bold", fontsize=11)
    return fig


@rc_context(STYLE | {"axes.grid": False})
def mfcc(
    features: np.ndarray, frame_rate: float, channels: int = 1, title: str = "MFCC",
    names: Sequence[str] = ("coefficients", "slopes (delta)", "slopes of slopes (delta-delta)"),
) -> Figure:  # fmt: skip
    """Features (coefficients, frames) of an utterance, one picture per channel; `frame_rate` in frames per second."""
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[0] % channels:
        raise UserError(f"features of shape {features.shape} do not hold {channels} channels of coefficients")
    seconds = features.shape[1] / frame_rate
    fig, axes = new_figure(7.2, 0.5 + 1.7 * channels, rows=channels)
    for i, (ax, part) in enumerate(zip(axes, np.split(features, channels), strict=True)):
        # the first coefficient is loudness, far above the rest, so it does not set the colour range
        limit = np.quantile(np.abs(part[1:] if len(part) > 1 else part), 0.96) or 1.0
        image = ax.imshow(
            part, origin="lower", aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit,
            extent=(0, seconds, -0.5, len(part) - 0.5), interpolation="nearest",
        )  # fmt: skip
        fig.colorbar(image, ax=ax, label="dB", extend="both")
        ax.set(ylabel="coefficient", title=names[i] if i < len(names) else f"channel {i}")
    axes[-1].set_xlabel("time (s)")
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def history(table: pd.DataFrame, title: str = "Learning curve") -> Figure:
    """Losses and dev EER (a fraction in `table`) by epoch, with the best epoch marked."""
    best = table.loc[table["dev_eer"].idxmin()]
    fig, (left, right) = new_figure(8.4, 3.4, columns=2)
    left.plot(table["epoch"], table["train_loss"], "o-", color=BONAFIDE, label="train")
    left.plot(table["epoch"], table["dev_loss"], "s--", color=KNOWN, label="dev")
    left.set(xlabel="epoch", ylabel="loss (nats)", title=title)
    left.legend()
    right.plot(table["epoch"], 100 * table["dev_eer"], "s--", color=KNOWN)
    right.plot(best["epoch"], 100 * best["dev_eer"], "*", color="black", markersize=14,
               label=f"best: epoch {best['epoch']:.0f}, {100 * best['dev_eer']:.1f} %")  # fmt: skip
    right.set(xlabel="epoch", ylabel="equal error rate on dev (%)", title="What training is stopped by")
    right.set_ylim(bottom=0)
    right.legend()
    for ax in (left, right):
        ax.xaxis.set_major_locator(MultipleLocator(max(1, len(table) // 8)))
    return fig


@rc_context(STYLE | {"axes.grid": False})
def attention(pictures: Mapping[str, tuple], frame_rate: float, title: str = "Where it listens") -> Figure:
    """Features, attention and pooling weights of a network, one utterance per column.

    `pictures`: name -> (features (coefficients, frames), attention (heads, tokens, tokens) or None, pooling (tokens,)
    or None).
    """
    fig = Figure(figsize=(4.2 * len(pictures), 6.4), layout="constrained")
    columns = fig.subplots(3, len(pictures), height_ratios=(2, 4, 1), squeeze=False).T
    for (top, middle, bottom), (name, (features, between, pooling)) in zip(columns, pictures.items(), strict=True):
        features = np.asarray(features)
        end = features.shape[1] / frame_rate
        top.imshow(features, aspect="auto", origin="lower", cmap="PuOr", extent=(0, end, 0.5, len(features) + 0.5))
        top.set(title=name, ylabel="coefficient")
        if between is None:
            top.set(xlabel="time (s)")
            for ax in (middle, bottom):
                ax.set_axis_off()
            continue
        between, pooling = np.asarray(between), np.asarray(pooling)
        middle.imshow(between.mean(axis=0), aspect="auto", cmap="Blues", vmin=0, extent=(0, end, end, 0))
        middle.set(ylabel="listening at (s)", xlabel="to what is said at (s)")
        bottom.fill_between(np.linspace(0, end, len(pooling)), 100 * pooling, color=BONAFIDE)
        bottom.set(xlim=(0, end), ylim=0, xlabel="time (s)", ylabel="share (%)")
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def score_histogram(
    scores: pd.DataFrame,
    thresholds: float | Mapping[str, float] | None = None,
    column: str = "llr",
    title: str = "Scores",
) -> Figure:
    """Score distributions of bona fide and of spoof by condition; left of a threshold line is called spoof."""
    groups = {"real voices": scores.loc[scores["label"] == "bonafide", column]}
    spoofs = scores[scores["label"] == "spoof"]
    for condition, group in spoofs.groupby("condition", sort=True):
        groups[f"fakes, {condition} attacks" if condition else "fakes"] = group[column]
    if thresholds is None or isinstance(thresholds, Mapping):
        lines = dict(thresholds or {})
    else:
        lines = {"threshold": thresholds}
    low, high = np.quantile(scores[column], [0.001, 0.999])
    bins = np.linspace(low, high, 41)
    fig, (ax,) = new_figure(7.2, 3.8)
    for (name, values), colour, style in zip(groups.items(), _colours(groups), LINES, strict=False):
        _steps(ax, np.clip(values, low, high), bins, colour, style, name, fill=name == "real voices")
    for (name, value), style in zip(lines.items(), ("-", "--", ":", "-."), strict=False):
        ax.axvline(
            value,
            color="black",
            linewidth=1.2,
            linestyle=style,
            label=f"{name.replace('_', ' ')}: {value:.2f}",
        )
    unit = (
        "log-likelihood ratio (natural log; higher: more like a real voice)"
        if column == "llr"
        else "score (no unit; higher: more like a real voice)"
    )
    ax.set(xlabel=unit, ylabel="share of its group (%)", title=title)
    ax.set_ylim(top=1.35 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=8, ncols=2, loc="upper left", frameon=True, edgecolor="none", framealpha=0.9)
    return fig


@rc_context(STYLE)
def reliability(
    trials: Mapping[str, tuple], bins: int = 10, title: str = "Does the number mean what it says?"
) -> Figure:
    """Reliability diagram of (bona fide, spoof) LLRs at equal priors; a dot is one of `bins` bins of equal weight."""
    fig, (ax,) = new_figure(5.4, 4.6)
    ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":", label="perfect")
    for (name, (bonafide, spoof)), colour, style in zip(trials.items(), (GREY, BONAFIDE, KNOWN), LINES, strict=False):
        llr = np.concatenate([bonafide, spoof])
        real = np.repeat([1.0, 0.0], [len(bonafide), len(spoof)])
        weight = np.where(real == 1, 0.5 / len(bonafide), 0.5 / len(spoof))
        order = np.argsort(llr, kind="stable")
        group = np.minimum((np.cumsum(weight[order]) * bins).astype(int), bins - 1)
        total = np.bincount(group, weight[order], bins)
        claimed = np.bincount(group, (weight / (1 + np.exp(-np.clip(llr, -60, 60))))[order], bins)
        happened = np.bincount(group, (weight * real)[order], bins)
        keep = total > 0
        ax.plot(100 * claimed[keep] / total[keep], 100 * happened[keep] / total[keep], "o", color=colour,
                linestyle=style, label=name)  # fmt: skip
    ax.set(
        xlabel="chance of a real voice that the scores claim (%)",
        ylabel="share that were real voices (%)",
    )
    ax.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal", title=title)
    ax.legend(loc="lower right")
    return fig


@rc_context(STYLE)
def det(trials: Mapping[str, tuple], title: str = "Detection error trade-off") -> Figure:
    """DET curves on normal-deviate axes: name -> (bona fide, spoof scores); the dot is the equal error rate."""
    fig, (ax,) = new_figure(5.6, 5.0)
    ends = norm.ppf([0.001, 0.995])
    ax.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    for (name, (bonafide, spoof)), colour, style in zip(trials.items(), _colours(trials), LINES, strict=False):
        curve = metrics.det(bonafide, spoof)
        x, y = (norm.ppf(np.clip(rate, 1e-6, 1 - 1e-6)) for rate in (curve.spoof_accepted, curve.bonafide_rejected))
        eer = curve.eer().value
        ax.plot(x, y, color=colour, linestyle=style, linewidth=1.8, label=f"{name}: EER {100 * eer:.1f} %")
        ax.plot(*[norm.ppf(np.clip(eer, 1e-6, 1 - 1e-6))] * 2, "o", color=colour)
    ticks = np.array([0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 99])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(norm.ppf(ticks / 100), [f"{tick:g}" for tick in ticks])
    ax.set(xlim=ends, ylim=ends, title=title, aspect="equal")
    ax.set(xlabel="fakes let through (%)", ylabel="real voices called fake (%)")
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", labelsize=8)
    if trials:
        ax.legend(loc="upper right")
    return fig


@rc_context(STYLE | {"axes.grid": False})
def confusion(table: pd.DataFrame, title: str = "Confusion matrix") -> Figure:
    """Confusion matrices, one per condition: counts of `evaluation.confusion_table` and the percentage of each row."""
    labels, conditions = ["bonafide", "spoof"], table["condition"].unique()
    fig, axes = new_figure(3.4 * len(conditions) + 0.4, 3.3, columns=len(conditions))
    for ax, condition in zip(axes, conditions, strict=True):
        cells = table[table["condition"] == condition].pivot(index="actual", columns="predicted", values="trials")
        counts = cells.reindex(index=labels, columns=labels).fillna(0).astype(int)
        share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        text = counts.astype(str) + share.map(lambda x: f"\n{100 * x:.1f} % of row")
        sns.heatmap(
            share, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True, ax=ax,
            linewidths=1, linecolor="white", annot_kws={"fontsize": 10},
        )  # fmt: skip
        ax.set(xlabel="called", ylabel="truth", title=f"{condition} attacks".capitalize())
        ax.set_xticklabels(["real", "fake"])
        ax.set_yticklabels(["real", "fake"], rotation=0)
        ax.tick_params(length=0)
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE | {"axes.grid.axis": "x"})
def bars(
    table: pd.DataFrame, name: str, value: str, group: str | None = None, *, title: str, label: str,
    guess: float | None = None,
) -> Figure:  # fmt: skip
    """Horizontal bars of fractions in percent, the highest on top; `group` sets the colour, `guess` marks chance."""
    table = table.dropna(subset=value).sort_values([value, name], ascending=[True, False])
    groups = table[group] if group else pd.Series("bonafide", index=table.index)
    fig, (ax,) = new_figure(7.2, 1.2 + 0.28 * len(table))
    for kind, hatch in zip(sorted(groups.unique()), ("", "///", "..."), strict=False):
        rows = np.flatnonzero(groups == kind)
        ax.barh(
            rows, 100 * table[value].iloc[rows], color=COLOURS.get(kind, GREY), hatch=hatch,
            edgecolor="white", height=0.75, label=f"{kind} attacks".strip() if group else None,
        )  # fmt: skip
    for row, share in enumerate(table[value]):
        ax.text(100 * share + 0.5, row, f"{100 * share:.1f}", va="center", fontsize=8)
    if guess is not None:
        ax.axvline(100 * guess, color="black", linewidth=1, linestyle="--", label="guessing")
    ax.set_yticks(range(len(table)), table[name], fontsize=9)
    widest = max([0.1, 1.1 * (guess or 0), *(1.1 * table[value])])
    ax.set(xlabel=label, title=title, xlim=(0, 100 * widest))
    if group or guess is not None:
        ax.legend(fontsize=8, loc="lower right", frameon=True)
    return fig


@rc_context(STYLE | {"axes.grid.axis": "x"})
def intervals(table: pd.DataFrame, name: str, group: str, *, title: str, label: str, guess: float = 0.5) -> Figure:
    """Fractions eer with eer_low and eer_high as dots with intervals, in table order; `guess` marks chance."""
    table = table.dropna(subset="eer").reset_index(drop=True)
    fig, (ax,) = new_figure(7.2, 1.3 + 0.3 * len(table))
    for kind, colour, marker in zip(table[group].unique(), (BONAFIDE, KNOWN, UNSEEN, GREY), "osD^", strict=False):
        rows = table[table[group] == kind]
        eer = 100 * rows["eer"].to_numpy()
        whiskers = np.nan_to_num(np.abs(100 * rows[["eer_low", "eer_high"]].to_numpy().T - eer))
        ax.errorbar(eer, rows.index, xerr=whiskers, fmt=marker, color=colour, markersize=6, capsize=3, label=kind)
    ax.axvline(100 * guess, color="black", linewidth=1, linestyle="--", label="guessing")
    words = [f"{words}   {100 * eer:.1f}" for words, eer in zip(table[name], table["eer"], strict=True)]
    ax.set_yticks(range(len(table)), words, fontsize=9)
    ax.set(xlabel=label, title=title, xlim=(0, None), ylim=(len(table) - 0.4, -0.6))
    ax.legend(fontsize=8, loc="best", frameon=True)
    return fig


@rc_context(STYLE | {"axes.grid": False})
def error_map(table: pd.DataFrame, title: str, label: str = "equal error rate (%)") -> Figure:
    """Heatmap of error rates (fractions); white is chance (50 %), NaN is empty."""
    fig, (ax,) = new_figure(2.4 + 0.12 * table.index.str.len().max() + 0.55 * table.shape[1], 2.2 + 0.28 * len(table))
    sns.heatmap(
        100 * table, annot=True, fmt=".0f", cmap="PuOr_r", vmin=0, vmax=100, linewidths=0.5, linecolor="#eeeeee",
        ax=ax, annot_kws={"fontsize": 8}, cbar_kws={"label": label},
    )  # fmt: skip
    ax.set_xticklabels(table.columns, rotation=40, ha="right", fontsize=9)
    ax.set_yticklabels(table.index, rotation=0, fontsize=9)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="", title=title)
    return fig


@rc_context(STYLE | {"axes.grid.axis": "x"})
def standings(table: pd.DataFrame, seeds: pd.DataFrame, title: str = "Who errs least") -> Figure:
    """Equal error rates of systems with intervals, by condition; ticks are single runs of systems with several seeds.

    Narrow, with each name above its dots, to be readable on a phone.
    """
    conditions = [name for name in ("known", "unseen") if f"eer_{name}" in table] or ["all"]
    colours, markers = {"known": KNOWN, "unseen": UNSEEN, "all": BONAFIDE}, {"known": "o", "unseen": "D", "all": "o"}
    gap = 0.26  # between the lines of a system
    fig, (ax,) = new_figure(4.8, 1.35 + 0.66 * len(table))
    for place, condition in enumerate(conditions):
        rows = np.arange(len(table)) + place * gap
        columns = [f"eer_{condition}{end}" for end in ("", "_low", "_high")]
        eer, low, high = 100 * table.reindex(columns=columns).to_numpy(float).T
        whiskers = np.nan_to_num(np.clip([eer - low, high - eer], 0, None))
        words = f"{condition} attacks"
        style = {"color": colours[condition], "markersize": 6.5, "elinewidth": 2.2, "capsize": 0, "label": words}
        ax.errorbar(eer, rows, xerr=whiskers, fmt=markers[condition], **style)
        for row, system in zip(rows, table["system"], strict=True):
            runs = 100 * seeds.loc[seeds["system"] == system, f"eer_{condition}"].to_numpy(float)
            if len(runs) > 1:
                ax.plot(runs, np.full(len(runs), row), "|", color="black", markersize=8, markeredgewidth=0.9)
    middle = np.arange(len(table)) + gap * (len(conditions) - 1) / 2
    ax.plot(100 * table["dev_eer"], middle, "x", color=GREY, markersize=6, markeredgewidth=1.6, label="dev")
    ax.axvline(50, color="black", linewidth=1, linestyle="--", label="guessing")
    for row, system in enumerate(table["system"]):
        ax.text(-0.8, row - 0.2, f"{row + 1}  {system}", fontsize=10, fontweight="bold", va="bottom")
    ax.set_yticks([])
    highest = 100 * table.filter(regex="^eer_.*_high$|^dev_eer$").to_numpy(float)
    ax.set(xlabel="equal error rate (%)", title=title, ylim=(len(table) - 0.35, -0.85))
    ax.set_xlim(-1.5, min(101.5, max(55, np.nanmax(highest, initial=0) + 2)))
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower center", ncols=2, fontsize=9)
    return fig


@rc_context(STYLE)
def cost(table: pd.DataFrame, title: str = "What less error costs") -> Figure:
    """Equal error rate on eval against scoring time, one numbered dot per system; the line is the Pareto front."""
    shown = table.assign(number=np.arange(1, len(table) + 1)).dropna(subset=["milliseconds", "eer_all"])
    quick = shown.sort_values(["milliseconds", "eer_all"])
    front = quick[quick["eer_all"] < quick["eer_all"].cummin().shift(fill_value=np.inf)]
    fig, (ax,) = new_figure(4.8, 3.9)
    ax.step(front["milliseconds"], 100 * front["eer_all"], "--", where="post", color=GREY, linewidth=1.4, zorder=1)
    for kind, colour, marker in (("network", BONAFIDE, "o"), ("published", KNOWN, "s"), ("baseline", GREY, "^")):
        rows = shown[shown["kind"] == kind]
        if len(rows):
            ax.scatter(
                rows["milliseconds"], 100 * rows["eer_all"], s=230, color=colour, marker=marker,
                edgecolor="white", linewidth=1.2, label={"network": "trained here"}.get(kind, kind),
            )  # fmt: skip
    for row in shown.itertuples():
        ax.text(
            row.milliseconds, 100 * row.eer_all, f"{row.number}", color="white", fontsize=8.5, fontweight="bold",
            ha="center", va="center_baseline", zorder=3,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.margins(0.1, 0.12)
    ax.set(xlabel="milliseconds for 4 s of speech, one core (log)", ylabel="equal error rate on eval (%)")
    ax.set_title(title)
    if shown["kind"].nunique() > 1:
        fig.legend(loc="outside lower center", ncols=3, fontsize=9, markerscale=0.6)
    return fig


def new_figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Figure outside pyplot, so that nothing displays it twice or keeps it in memory."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False).ravel()


def _steps(ax, values, bins, colour, style, name, *, fill):
    """Histogram outline (and area) in percent of the group."""
    sns.histplot(
        x=values, bins=bins, stat="percent", element="step", ax=ax, color=colour, fill=fill,
        alpha=0.35 if fill else 1.0, linestyle=style, linewidth=1.8, label=f"{name} ({len(values)})",
    )  # fmt: skip


def _colours(names) -> list[str]:
    """Colour of each name: by class or condition where the name contains one, else in turn."""
    spare = iter(["#009E73", "#E69F00", "#56B4E9", GREY, "black"] * 4)
    words = {"real": BONAFIDE, "known": KNOWN, "unseen": UNSEEN, "fakes": KNOWN}
    return [next((c for word, c in words.items() if word in name.lower()), None) or next(spare) for name in names]
