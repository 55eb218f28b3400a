"""Station files as their networks give them, made for tests."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd

DAYS = pd.date_range("2012-05-01", "2012-05-04 23:00", freq="h")


def stm(
    folder, times=DAYS, value=0.25, flag="G", *, network="NETQ", station="Moor-2", depths=(0.05, 0.05), probe="Probe-B", **more
):
    """One ISMN file below a folder; returns its path. ``value`` and ``flag``: one for all records, or one for each."""
    top, bottom = depths
    times = list(times)
    values = value if isinstance(value, list) else [value] * len(times)
    flags = flag if isinstance(flag, list) else [flag] * len(times)
    place = f"{network} {network} {station} {more.get('lat', 47.5):10.5f} {more.get('lon', 11.25):10.5f} 640.00"
    place += f" {top:8.4f} {bottom:8.4f}"
    ceop = more.get("layout") == "ceop"
    lines = [] if ceop else [f"{place} {probe}"]
    for time, one, mark in zip(times, values, flags, strict=True):
        stamp = f"{time:%Y/%m/%d %H:%M}"
        lines.append(f"{stamp} {stamp} {place} {one:9.4f} {mark} M" if ceop else f"{stamp} {one:9.4f} {mark} M")
    period = f"{min(times):%Y%m%d}_{max(times):%Y%m%d}"
    name = f"{network}_{network}_{station}_sm_{top:.6f}_{bottom:.6f}_{more.get('named', probe)}_{period}.stm"
    path = Path(folder) / network / station / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def zipped(folder, target, below=""):
    """A folder as a ZIP; returns its path."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                archive.write(path, f"{below}{path.relative_to(folder)}")
    return target
