"""The tables gfm inspect prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from gfm_objectives.data.finding import EPOCH
from gfm_objectives.data.guards import KEYED, remedy
from gfm_objectives.data.source import Source
from gfm_objectives.inspection.tally import Look, SensorTally, Values, pooled
from gfm_objectives.sensors import SENSORS, Sensor, calibration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

FAR = 4.0  # deviations from what the sensor table expects, or times its deviation, from which a scale looks wrong


def render(
    name: str, sources: Mapping[str, Source], looks: Mapping[str, Look], options: Mapping[str, Any]
) -> RenderableType:
    """Splits, bands and classes as tables; then what should be looked at."""
    from rich.console import Group
    from rich.text import Text

    first = next(iter(sources.values()))
    spec = first.spec
    head = f"{name}: places of {spec.size} x {spec.size} px at {spec.gsd:g} m"
    parts: list[RenderableType] = [Text(head + (", synthetic" if first.synthetic else ""), style="bold")]
    parts += [Text(first.license)] if first.license else []
    parts += [_splits(looks), *(_bands(sensor, dates, looks) for sensor, dates in spec.dates.items())]
    parts += [
        (
            _numbers_of(layer, legend.classes[0], looks)
            if _is_numbers(layer, looks)
            else _classes(layer, legend.classes, looks)
        )
        for layer, legend in spec.legends.items()
    ]
    parts = [part for one in parts for part in (one, Text())]  # an empty line after each
    lines = [f"{split}: {line}" for split, source in sources.items() for line in source.notes()]
    parts += [Text(line) for line in _merged(lines)]
    parts += [Text(line, style="yellow") for line in _odd(looks, options)]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _splits(looks: Mapping[str, Look]) -> Table:
    table = _table("Splits", "split", "places", "areas", "tiles read")
    for split, found in looks.items():
        table.add_row(split, str(found.places), str(found.areas), str(found.read))
    return table


def _bands(sensor: str, dates: int, looks: Mapping[str, Look]) -> Table:
    """Values of valid pixels in the sensor's unit, beside what the sensor table expects."""
    tallies = [found.sensors[sensor] for found in looks.values()]
    valid = sum(t.valid for t in tallies) / max(1, sum(t.pixels for t in tallies))
    empty = sum(t.empty for t in tallies)
    days = [d for t in tallies if t.days for d in t.days]
    figures = _figures(sensor, tallies)
    about = [figures.unit + (" less each tile's mean" if figures.centred else "")]
    about += [
        f"{dates} date{'s' if dates > 1 else ''}" + (f" from {_date(min(days))} to {_date(max(days))}" if days else "")
    ]
    about += [f"{valid:.1%} of pixels valid"] + ([f"{empty} tiles without any"] if empty else [])
    columns = ("min", "2 %", "mean", "98 %", "max", "deviation", "expected")
    table = _table(f"Sensor {sensor}: {', '.join(about)}", "band", *columns)
    for band in figures.bands:
        if band.name in tallies[0].bands:
            numbers = _numbers(pooled(tallies, band.name))
            table.add_row(band.name, *numbers, f"{band.mean:g} ± {band.std:g}")
    return table


def _figures(sensor: str, tallies: Sequence[SensorTally]) -> Sensor:
    """What is expected of the sensor at the level its series have; of the sensor table, where they differ."""
    levels = set().union(*(t.levels for t in tallies))
    return calibration(sensor, levels.pop()) if len(levels) == 1 else SENSORS[sensor]


def _numbers(values: Values) -> list[str]:
    if not values.n:
        return ["-"] * 6
    low, high = values.percentiles(2, 98)
    tiny = 1e-6 * max(abs(values.low), abs(values.high))  # rounding errors of means that are 0
    numbers = (values.low, low, values.mean, high, values.high, values.std)
    return [f"{v if abs(v) > tiny else 0:.3g}" for v in numbers]


def _is_numbers(layer: str, looks: Mapping[str, Look]) -> bool:
    return any(found.layers[layer].values.n for found in looks.values())


def _classes(layer: str, classes: tuple[str, ...], looks: Mapping[str, Look]) -> Table:
    sensors = [s for s in next(iter(looks.values())).layers[layer].hidden]
    hidden = {s: np.sum([found.layers[layer].hidden[s] for found in looks.values()], 0) for s in sensors}
    every = np.sum([found.layers[layer].pixels for found in looks.values()], 0)
    shown = [s for s in sensors if np.any(hidden[s])]
    whole = any(found.layers[layer].whole for found in looks.values())
    of = "tiles that show it" if whole else "pixels"
    table = _table(f"Layer {layer}, share of {of}", "class", *looks, *(f"not seen by {s}" for s in shown))
    totals = {s: max(1, f.read if whole else int(f.layers[layer].pixels.sum())) for s, f in looks.items()}
    for i, name in enumerate([*classes, "no label"]):
        pixels = {split: int(found.layers[layer].pixels[i]) for split, found in looks.items()}
        unseen = [f"{hidden[s][i] / every[i]:.1%} of it" if hidden[s][i] else "none" for s in shown]
        table.add_row(name, *(f"{n / totals[s]:.1%}" if n else "none" for s, n in pixels.items()), *unseen)
    return table


def _numbers_of(layer: str, unit: str, looks: Mapping[str, Look]) -> Table:
    table = _table(f"Layer {layer}, in {unit}", "split", "labelled", "min", "2 %", "mean", "98 %", "max", "deviation")
    for split, found in looks.items():
        tally = found.layers[layer]
        share = tally.pixels[0] / max(1, tally.pixels.sum())
        table.add_row(split, f"{share:.1%}", *_numbers(tally.values))
    return table


def _odd(looks: Mapping[str, Look], options: Mapping[str, Any]) -> Iterator[str]:
    """Values far from what the sensor table expects, with the scale that would bring them there where the data has one;
    places unlabelled."""
    for name in next(iter(looks.values())).sensors:
        tallies = [found.sensors[name] for found in looks.values()]
        sensor = _figures(name, tallies)
        if sensor.own:
            continue  # its figures are those of this very data
        found = {b.name: pooled(tallies, b.name) for b in sensor.bands if b.name in tallies[0].bands}
        found = {b: v for b, v in found.items() if v.n and v.std}
        far = [b for b, v in found.items() if not sensor.centred and _far(sensor, b, v)]
        if far:
            data = str(options.get("name"))
            said = f"{', '.join(far)} lie far from the expected {sensor.unit}; {remedy(data)}"
            if data not in KEYED:
                yield f"{name}: {said}"
                continue
            block = dict((options.get("sensors") or {}).get(name) or {})
            yield f"data.sensors.{name}: {said}. {_rescaled(sensor, found, block)}"
    for split, look in looks.items():
        for layer, tally in look.layers.items():
            if tally.empty:
                yield f"layer {layer}: {tally.empty} of {look.read} {split} tiles read have no label"


def _far(sensor: Sensor, band: str, v: Values) -> bool:
    want = sensor.bands[sensor.index([band])[0]]
    return abs(v.mean - want.mean) > FAR * want.std or not 1 / FAR < v.std / want.std < FAR


def _rescaled(sensor: Sensor, found: Mapping[str, Values], block: Mapping[str, Any]) -> str:
    """The scale and offset that give all bands together the mean and deviation expected."""
    want = [sensor.bands[i] for i in sensor.index(list(found))]
    factor = sum(b.std for b in want) / sum(v.std for v in found.values())
    shift = sum(b.mean - factor * v.mean for b, v in zip(want, found.values(), strict=True)) / len(want)
    scale, offset = (float(block.get(k) or d) for k, d in (("scale", 1.0), ("offset", 0.0)))
    return f"For values without a unit, scale: {scale * factor:.3g} and offset: {offset * factor + shift:.3g} would do"


def _merged(lines: list[str]) -> list[str]:
    """Lines that differ by their split alone, once."""
    texts: dict[str, list[str]] = {}
    for line in lines:
        split, _, text = line.partition(": ")
        texts.setdefault(text, []).append(split)
    return [f"{', '.join(splits)}: {text}" for text, splits in texts.items()]


def _date(day: float) -> str:
    return (EPOCH + timedelta(days=round(day))).isoformat()
