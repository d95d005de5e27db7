"""A profile for people: a summary for the terminal, a table of all recordings, and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xaimoe_audio.profiling.bands import BAND_CENTRES
from xaimoe_audio.profiling.profile import LISTED, DatasetProfile, Part, Profiled, most_important
from xaimoe_runtime.csv_cells import escape_text
from xaimoe_runtime.drawing import COLOURS, plain, save_figure
from xaimoe_runtime.writing import replacing

UNITS = {
    "duration_s": ("duration", "s"),
    "snr": ("SNR", "dB"),
    "flatness": ("flatness", ""),
    "transient_rate": ("transient rate", "log10"),
    "clipping_rate": ("clipping rate", ""),
    "fmin_eff": ("band from", "Hz"),
    "fmax_eff": ("band to", "Hz"),
    "level": ("level", "dBFS"),
    "noise_floor": ("noise floor", "dBFS"),
    "quality": ("quality", ""),
}
NAME = 24
"""Width of the first column of the summary."""
MAX_CLASSES = 12
"""Classes that the figure draws; the largest ones."""


def write_profile(profiled: Profiled, out: Path) -> None:
    """Writes ``profile.json``, ``profile.csv`` (one row a recording) and ``profile.png`` to the folder ``out``.

    Raises:
        ConfigError: the folder cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(profiled.profile), indent=2) + b"\n"
    if _is_there(out, content):
        return
    files = profiled.files.drop(columns=["third_octaves", "contrast"])
    files = files.assign(label=files["label"].str.join("|"))
    with replacing(out / "profile.csv") as file:
        files.map(lambda cell: escape_text(cell) if isinstance(cell, str) else cell).to_csv(file, index=False)
    save_figure(draw(profiled), out / "profile.png")
    with replacing(out / "profile.json") as file:  # last: it says that the others are there
        file.write(content)


def _is_there(out: Path, content: bytes) -> bool:
    """Whether the folder has this very profile, so that nothing need be drawn again."""
    try:
        same = (out / "profile.json").read_bytes() == content
    except OSError:
        return False
    return same and all((out / name).is_file() for name in ("profile.csv", "profile.png"))


def describe(profile: DatasetProfile) -> str:
    """The profile as text for a terminal."""
    whole = profile.overall
    lines = [
        f"{profile.dataset}: {whole.files} recordings, {whole.hours:.2f} h, {len(profile.classes)} classes "
        f"(largest over smallest in training: {profile.imbalance:.1f})",
        f"sampling rates: {_listed(profile.fs_unique, ' Hz')}",
        f"channels: {_listed(profile.channels)}; encodings: {_listed(profile.encodings)}",
        "",
        f"{'':<{NAME}}  {'q05':>10}  {'median':>10}  {'q95':>10}",
    ]
    for name, (title, unit) in UNITS.items():
        spread = whole.spread[name]
        cells = "".join(f"  {_number(value, unit):>10}" for value in (spread.q05, spread.q50, spread.q95))
        lines.append(f"{f'{title} [{unit}]' if unit else title:<{NAME}}{cells}")
    for title, parts in (("split", profile.by_split), ("class", profile.by_class)):
        lines += ["", f"{title:<{NAME}}  {'files':>10}  {'hours':>10}  {'SNR dB':>10}  {'band to':>10}"]
        lines += [_row(name, part) for name, part in parts.items()]
    lines += ["", f"{len(profile.warnings)} warning(s)", *most_important(profile.warnings)]
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit == "Hz" else f"{value:.4g}"


def _listed(counts: dict[str, int], unit: str = "") -> str:
    rising = sorted(counts.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name}{unit} ({count})" for name, count in rising[:LISTED])
    return listed + (f" and {len(rising) - LISTED} more" if len(rising) > LISTED else "")


def _row(name: str, part: Part) -> str:
    spread, name = part.spread, " ".join(name.split())
    name = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    return (
        f"{name:<{NAME}}  {part.files:>10}  {part.hours:>10.2f}  {spread['snr'].q50:>10.1f}  "
        f"{spread['fmax_eff'].q50:>10.0f}"
    )


def draw(profiled: Profiled) -> Any:
    """The figure: spectra by class, durations, SNR by class, sampling rates."""
    from matplotlib.figure import Figure  # here, so that a profile without a figure needs no matplotlib

    profile, files = profiled.profile, profiled.files
    names = sorted(sorted(profile.classes, key=lambda name: -profile.classes[name])[:MAX_CLASSES])
    styles = {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": "-" if i < len(COLOURS) else "--"}
        for i, name in enumerate(names)
    }
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (spectra, durations), (noise, rates) = figure.subplots(2, 2)
    known = np.zeros(len(BAND_CENTRES), bool)
    for name in names:
        if name not in profile.sounds:
            continue  # not in the training split
        level = np.array(profile.sounds[name].third_octaves, dtype=float)
        known |= np.isfinite(level)
        spectra.plot(BAND_CENTRES, level, label=plain(name), linewidth=1.5, **styles[name])
    spectra.set_xscale("log")
    if known.any():
        spectra.set_xlim(BAND_CENTRES[known][0], BAND_CENTRES[known][-1])
        spectra.legend(fontsize=8, ncols=2)
    spectra.set(title="Median spectrum of each class", xlabel="Frequency [Hz]", ylabel="Third-octave level [dB re FS]")

    seconds = files["duration_s"].to_numpy()
    low, high = float(seconds.min()), float(seconds.max())
    edges = np.geomspace(low, high, 30) if high > 1.5 * low else np.linspace(low * 0.9, high * 1.1, 30)
    durations.hist(seconds, bins=edges, color=COLOURS[0])
    if high > 10 * low:
        durations.set_xscale("log")
    durations.set(title="Durations", xlabel="Duration [s]", ylabel="Recordings")

    by_class = [files.loc[files["label"].map(lambda label, name=name: name in label), "snr"] for name in names]
    noise.boxplot(
        by_class,
        orientation="horizontal",
        tick_labels=[plain(name) for name in names],
        showfliers=False,
        medianprops={"color": "k"},
    )
    noise.invert_yaxis()
    noise.set(title="Signal-to-noise ratio (proxy)", xlabel="SNR [dB]")
    noise.tick_params(axis="y", labelsize=8)

    labels = [f"{int(rate) / 1000:g}" for rate in sorted(profile.fs_unique, key=int)]
    counts = [profile.fs_unique[rate] for rate in sorted(profile.fs_unique, key=int)]
    rates.bar(labels, counts, color=COLOURS[0])
    rates.set(title="Native sampling rates", xlabel="Sampling rate [kHz]", ylabel="Recordings")
    if len(labels) > 8:
        rates.tick_params(axis="x", rotation=60, labelsize=8)
    for axes in (spectra, durations, noise, rates):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure
