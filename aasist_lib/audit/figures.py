"""Figures of the audits and of the notebook that inspects one utterance, in the style of `plots`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from aasist_lib.plots import BONAFIDE, COLOURS, GREY, KNOWN, STYLE, UNSEEN, new_figure


@rc_context(STYLE | {"axes.grid.axis": "x"})
def shortcuts(
    results: Mapping[str, Mapping], detector: Mapping[str, Mapping],
    title: str = "What can be told without listening to the voice", *,
    words: Mapping[str, str], limit: float, limit_all: float,
) -> Figure:  # fmt: skip
    """Equal error rate of every shortcut baseline of `shortcuts.baselines` by condition, above that of the detector.

    `limit` (single cue) and `limit_all` (all cues) are fractions; an error rate in the grey area to their left is an
    alarm.
    """
    rows = [(words.get(name, name), measured, limit_all if name == "all" else limit)
            for name, measured in results.items()]  # fmt: skip
    rows += [("the detector", detector, None)] if detector else []
    looks = {"known": (KNOWN, "o"), "unseen": (UNSEEN, "s"), "all": ("black", "D")}
    fig, (ax,) = new_figure(7.2, 1.5 + 0.45 * len(rows))
    for place, (_, _, lowest) in enumerate(rows):
        if lowest:
            ax.fill_betweenx([place - 0.42, place + 0.42], 0, 100 * lowest, color=GREY, alpha=0.15, linewidth=0)
            ax.plot([100 * lowest] * 2, [place - 0.42, place + 0.42], color=GREY, linewidth=1.5,
                    label=None if place else "limit: less is an alarm")  # fmt: skip
    for number, (condition, (colour, marker)) in enumerate(looks.items()):
        there = [(place, measured[condition]) for place, (_, measured, _) in enumerate(rows)
                 if condition in measured]  # fmt: skip
        if not there:
            continue
        eer = np.array([100 * row["eer"] for _, row in there])
        ends = [[100 * row.get(end, row["eer"]) for _, row in there] for end in ("eer_low", "eer_high")]
        ax.errorbar(
            eer, [place + 0.26 * (number - 1) for place, _ in there], xerr=np.abs(ends - eer), fmt=marker,
            color=colour, markersize=5, capsize=2, linewidth=1.2, label=f"{condition} attacks",
        )  # fmt: skip
    ax.axvline(50, color="black", linewidth=1, linestyle="--", label="guessing")
    ax.set_yticks(range(len(rows)), [words for words, _, _ in rows], fontsize=9)
    ax.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="equal error rate (%), with 95 % interval")
    ax.set_title(title)
    fig.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    return fig


@rc_context(STYLE | {"axes.grid.axis": "x"})
def robustness(summary: pd.DataFrame, title: str = "Error rate under each condition") -> Figure:
    """Equal error rate of each condition of `robustness.summary`; line and band are those of clean recordings."""
    table = summary.dropna(subset="eer")
    clean, table = table[table["condition"] == "clean"], table[table["condition"] != "clean"]
    names = {"robustness": "What happens to recordings", "uses": "What the detector goes by"}
    families = {name: rows for name, rows in table.groupby("family", sort=False)}
    places = {}  # of each dot from the top: one row each, half a row more between kinds
    for name, rows in families.items():
        places[name] = np.arange(len(rows)) + 0.5 * (rows["kind"] != rows["kind"].shift()).cumsum().to_numpy()
    heights = [place[-1] + 1 for place in places.values()]
    fig = Figure(figsize=(7.2, 1.4 + 0.17 * sum(heights)), layout="constrained")
    axes = fig.subplots(len(families), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for ax, (name, rows), (colour, marker) in zip(
        axes, families.items(), ((KNOWN, "o"), (BONAFIDE, "s")), strict=False
    ):
        eer = 100 * rows["eer"].to_numpy()
        whiskers = None
        if "eer_low" in rows:
            whiskers = np.abs(100 * rows[["eer_low", "eer_high"]].to_numpy().T - eer)
        ax.errorbar(eer, places[name], xerr=whiskers, fmt=marker, color=colour, markersize=5, capsize=2)
        for _, row in clean.iterrows():
            if "eer_low" in row:
                ax.axvspan(100 * row["eer_low"], 100 * row["eer_high"], color=GREY, alpha=0.12, linewidth=0)
            label = f"{row['words'].lower()}: {100 * row['eer']:.1f} %"
            ax.axvline(100 * row["eer"], color="black", linewidth=1, linestyle="--", label=label)
        words = [f"{words}   {value:.1f}" for words, value in zip(rows["words"], eer, strict=True)]
        ax.set_yticks(places[name], words, fontsize=8)
        ax.set(title=names.get(name, name), ylim=(places[name][-1] + 0.7, places[name][0] - 0.7))
        ax.set(xlabel="equal error rate (%), with 95 % interval" if ax is axes[-1] else "")
    axes[0].set_xlim(left=0)
    if len(clean):
        axes[0].legend(fontsize=8, loc="best", frameon=True)
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE | {"axes.grid": False})
def inspection(
    waveform: np.ndarray,
    decibels: np.ndarray,
    features: np.ndarray | None,
    pooling: np.ndarray | None,
    sample_rate: float,
    title: str = "What there is to hear, and to see",
) -> Figure:
    """One recording on one time axis: waveform, spectrum (dB, 0 at the loudest), features and attention pooling."""
    seconds = len(waveform) / sample_rate
    rows = [1.1, 2.0] + [2.0] * (features is not None) + [1.1 if pooling is not None else 0.4]
    fig = Figure(figsize=(8.4, 0.9 + 1.15 * sum(rows)), layout="constrained")
    axes = fig.subplots(len(rows), 1, sharex=True, height_ratios=rows)
    axes[0].plot(np.arange(len(waveform)) / sample_rate, waveform, color=GREY, linewidth=0.4)
    axes[0].set(ylabel="amplitude", title="Waveform")
    image = axes[1].imshow(
        decibels, origin="lower", aspect="auto", cmap="Greys", vmin=-70, vmax=0,
        extent=(0, seconds, 0, sample_rate / 2000),
    )  # fmt: skip
    axes[1].set(ylabel="kHz", title="Short-time spectrum")
    fig.colorbar(image, ax=axes[1], label="dB", pad=0.01)
    if features is not None:
        # the first coefficient may be loudness, far above the rest, so it does not set the colour range
        limit = np.quantile(np.abs(features[1:] if len(features) > 1 else features), 0.96) or 1.0
        image = axes[2].imshow(
            features, origin="lower", aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit,
            extent=(0, seconds, -0.5, len(features) - 0.5), interpolation="nearest",
        )  # fmt: skip
        axes[2].set(ylabel="coefficient", title="Features, without their slopes")
        fig.colorbar(image, ax=axes[2], extend="both", pad=0.01)
    if pooling is None:
        axes[-1].text(0, 0.5, "This network has no attention to look at.", transform=axes[-1].transAxes)
        axes[-1].set_yticks([])
        axes[-1].spines["left"].set_visible(False)
    else:
        times_mean = len(pooling) * np.asarray(pooling)
        edges = np.linspace(0, seconds, len(pooling) + 1)
        axes[-1].stairs(times_mean, edges, baseline=1, fill=True, color=BONAFIDE)
        axes[-1].axhline(1, color="black", linewidth=0.8)
        # minimum range, so that nearly uniform attention does not look like peaks
        axes[-1].set(ylim=(min(0.5, times_mean.min()), max(1.5, 1.05 * times_mean.max())))
        axes[-1].set(ylabel="weight", title="Attention: how much each moment counts (1: as much as the average)")
    axes[-1].set(xlim=(0, seconds), xlabel="time (s)")
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def sliding(table: pd.DataFrame, threshold: float, title: str = "Window by window") -> Figure:
    """LLR of each window over time, with the threshold."""
    fig, (ax,) = new_figure(8.4, 3.2)
    middle = (table["start"] + table["end"]) / 2
    ax.axhline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold: {threshold:+.2f}")
    ax.plot(middle, table["llr"], color=GREY, linewidth=1)
    if len(table) <= 40:  # more extents would hide each other
        ax.hlines(table["llr"], table["start"], table["end"], color=GREY, linewidth=0.8, alpha=0.5)
    for decision, marker, name in (("bonafide", "o", "called real"), ("spoof", "X", "called fake")):
        chosen = table["decision"] == decision
        ax.plot(
            middle[chosen], table["llr"][chosen], marker, color=COLOURS[decision], markeredgecolor="white",
            markersize=7 if len(table) <= 100 else 4, markeredgewidth=0.6, label=f"{name} ({chosen.sum()})",
        )  # fmt: skip
    low, high = (value(table["llr"].agg(how), threshold) for value, how in ((min, "min"), (max, "max")))
    room = 0.12 * (high - low) + 0.1
    low, high = low - room, high + room
    ax.axhspan(low, threshold, color=KNOWN, alpha=0.08, linewidth=0)
    ax.set(xlim=(0, table["end"].max()), ylim=(low, high), xlabel="time (s)", ylabel="LLR", title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


@rc_context(STYLE | {"axes.grid": False})
def evidence(
    maps: Mapping[str, np.ndarray],
    times: np.ndarray,
    hertz: np.ndarray,
    decibels: np.ndarray,
    *,
    unit: str = "LLR",
    marked: int = 8,
    title: str = "What moved the decision",
) -> Figure:
    """Maps (bands, times) of tile relevance, positive for bona fide, below the spectrum; edges in seconds and Hz.

    The `marked` most relevant tiles of each map, at most a quarter of all, are framed.
    """
    edges = hertz / 1000
    fig, axes = new_figure(8.4, 0.6 + 2.3 * (1 + len(maps)), rows=1 + len(maps))
    colours = LinearSegmentedColormap.from_list("evidence", [KNOWN, "white", BONAFIDE])
    # bands have equal heights, so the spectrum is drawn on their scale
    places = np.interp(np.linspace(0, edges[-1], len(decibels) + 1), edges, np.arange(len(edges)))
    grid = np.linspace(0, times[-1], decibels.shape[1] + 1)
    mesh = axes[0].pcolormesh(grid, places, decibels, cmap="Greys", vmin=-70, vmax=0, rasterized=True)
    fig.colorbar(mesh, ax=axes[0], label="dB", pad=0.01)
    axes[0].set_title("Short-time spectrum, on the scale of the bands")
    limit = max(np.abs(found).max() for found in maps.values()) or 1.0
    for ax, (name, found) in zip(axes[1:], maps.items(), strict=True):
        mesh = ax.pcolormesh(
            times, np.arange(len(edges)), found, cmap=colours, vmin=-limit, vmax=limit,
            edgecolors="#e6e6e6", linewidth=0.3,
        )  # fmt: skip
        bar = fig.colorbar(mesh, ax=ax, pad=0.01)
        bar.set_label(f"\N{LEFTWARDS ARROW} fake   {unit}   real \N{RIGHTWARDS ARROW}")
        for place in np.argsort(-np.abs(np.ravel(found)), kind="stable")[: min(marked, found.size // 4)]:
            band, time = np.unravel_index(place, found.shape)
            corner, width = (times[time], band), times[time + 1] - times[time]
            ax.add_patch(Rectangle(corner, width, 1, fill=False, edgecolor="black", linewidth=1.3))
        ax.set_title(name.capitalize())
    for ax in axes:
        ax.set_yticks(np.arange(len(edges)), [f"{edge:.1f}" for edge in edges], fontsize=8)
        ax.set(xlim=(0, times[-1]), ylim=(0, len(edges) - 1), ylabel="kHz")
    axes[-1].set_xlabel("time (s)")
    fig.suptitle(title, fontweight="bold", fontsize=12)
    return fig


@rc_context(STYLE)
def deletion(table: pd.DataFrame, unit: str = "LLR", title: str = "Do the maps name what decides?") -> Figure:
    """Change of the score against the decision as more and more tiles are removed, from `explain.deletion`."""
    names = list(table.columns[1:-3])
    fig, (ax,) = new_figure(8.4, 3.4)
    place = np.arange(len(table))
    ax.fill_between(place, table["random_low"], table["random_high"], color=GREY, alpha=0.2, linewidth=0)
    ax.plot(place, table["random"], color=GREY, linestyle=":", label="random tiles (band: 95 % of draws)")
    looks = zip(names, [BONAFIDE, KNOWN, "black", "#009E73"] * 2, ["-", "--", "-."] * 3, "osD^v<>p", strict=False)
    for name, colour, style, marker in looks:
        label = "loudest tiles" if name == "loudest" else f"first tiles by {name}"
        ax.plot(place, table[name], marker, color=colour, linestyle=style, label=label)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xticks(place, table["tiles"])
    ax.set(xlabel="tiles taken away", ylabel=f"{unit}: moved against the decision", title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
