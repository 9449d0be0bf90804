"""The page beside a keep-list: what was left out and why, balance before and after, the largest groups as pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfm_objectives import disk
from gfm_objectives.curation.describing import layer_of
from gfm_objectives.curation.keep import Rules, relations
from gfm_objectives.data.source import Source
from gfm_objectives.report.pictures import image

if TYPE_CHECKING:
    from gfm_objectives.curation.curating import Curation

GROUPS, SHOWN = 6, 6  # the largest groups of twins, and how many of each are shown
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .9rem;text-align:right;border-bottom:1px solid "
    "#ddd}td:first-child,th:first-child{text-align:left}img{max-width:100%}h2{margin-top:2rem}.note{color:#666}"
)


def write_page(path: Path, name: str, source: Source, found: Curation, rules: Rules, embedding: str) -> Path:
    """One file without links: it can be sent. embedding: what places are clustered by, as it is named."""
    kept, n = found.kept, len(found.kept.keep)
    left = int(kept.keep.sum())
    relation, _ = relations(found.pairs, source.spec.size, rules)
    counts = {r: int((relation == r).sum()) for r in np.unique(relation)}
    told = {
        "copy": "the same picture",
        "season": "one place, another date",
        "": f"less than {rules.overlap:.0%} shared",
    }
    parts = [
        f"<h1>{html.escape(name)}: {left:,} of {n:,} places kept</h1>",
        f"<p class=note>{html.escape(source.license)}.{' Synthetic data.' if source.synthetic else ''} Nothing is "
        f"deleted: <code>data.keep={html.escape(path.with_suffix('.parquet').name)}</code> reads the rest.</p>",
        "<h2>Left out</h2>",
        table(("reason", "places", "share"), [(r, f"{c:,}", f"{c / n:.2%}") for r, c in kept.counts().items()]),
        "<h2>Pairs that show the same ground</h2>",
        table(("relation", "pairs"), [(told[r], f"{c:,}") for r, c in counts.items()]),
        "<h2>What an epsilon would leave out beyond that</h2>",
        f"<p class=note>Places whose cosine with another of their cluster exceeds 1 - epsilon. They are alike by their "
        f"embedding ({html.escape(embedding)}), and may be other ground.</p>",
        table(
            ("epsilon", "places", "share"),
            [(f"{e:g}", f"{c:,}", f"{c / n:.2%}") for e, c in found.alike.sweep(kept.keep)],
        ),
        *_balance(source, found),
        "<h2>Largest groups</h2>",
        *_groups(source, found),
    ]
    page = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(name)}</title><style>{STYLE}</style>{''.join(parts)}"
    )
    disk.write(path, page)
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "<p>none</p>"
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(c))}</td>' for c in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>{body}</table>"


def picture_tag(figure: Any) -> str:
    """A figure inside of the page."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90)
    return f"<img src='data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}'>"


def balance(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Counts (K,) as shares, and the Kullback-Leibler divergence of those after from those before, in bits."""
    p, q = (c / max(c.sum(), 1e-9) for c in (before, after))
    seen = q > 0
    return p, q, float((q[seen] * np.log2(q[seen] / p[seen])).sum())


def _balance(source: Source, found: Curation) -> list[str]:
    """Classes and places before and after."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    d, keep, out = found.described, found.kept.keep, []
    layer = layer_of(source)
    if layer and d.classes.any():
        before, after, bits = balance(d.classes.sum(0), d.classes[keep].sum(0))
        names = source.spec.legends[layer[0]].classes
        rows = [(c, f"{b:.2%}", f"{a:.2%}") for c, b, a in zip(names, before, after, strict=True) if b or a]
        told = f"{bits:.4f} bits from before to after (Kullback-Leibler)."
        out += [f"<h2>Classes of {html.escape(layer[0])}</h2><p>{told}</p>", table(("class", "before", "after"), rows)]
    names_of_areas, area = np.unique(source.groups(), return_inverse=True)
    if 1 < len(names_of_areas) < len(area):
        counts = np.bincount(area), np.bincount(area[keep], minlength=len(names_of_areas))
        lost, bits = int((counts[1] == 0).sum()), balance(*counts)[2]
        out.append(
            f"<p>{len(names_of_areas):,} areas, {lost:,} of them lost; {bits:.4f} bits from before to after.</p>"
        )
    if np.isfinite(d.lonlat).all():
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        edges = (np.linspace(-180, 180, 73), np.linspace(-90, 90, 37))
        for ax, which, title in zip(figure.subplots(1, 2), (keep | True, keep), ("before", "after"), strict=True):
            count = np.histogram2d(d.lonlat[which, 0], d.lonlat[which, 1], edges)[0].T
            ax.imshow(np.where(count, np.log10(count + 1), np.nan), origin="lower", extent=(-180, 180, -90, 90))
            ax.set_title(f"{title}: places per 5 degrees, log scale", fontsize=9)
        out += ["<h2>Where they lie</h2>", picture_tag(figure)]
    return out


def _groups(source: Source, found: Curation) -> list[str]:
    """The places kept that stand for most others, each with some of those."""
    from matplotlib.figure import Figure

    twins = found.kept.twin[found.kept.twin >= 0]
    if not len(twins):
        return ["<p>none</p>"]
    heads, counts = np.unique(twins, return_counts=True)
    out = []
    for head, count in sorted(zip(heads.tolist(), counts.tolist(), strict=True), key=lambda g: (-g[1], g[0]))[:GROUPS]:
        others = np.flatnonzero(found.kept.twin == head)[: SHOWN - 1].tolist()
        figure = Figure(figsize=(1.7 * SHOWN, 1.9), layout="constrained")
        axes = figure.subplots(1, SHOWN)
        for ax in axes:
            ax.axis("off")
        for ax, place, rgb in zip(axes, [head, *others], image(source.read([head, *others])), strict=False):
            ax.imshow(rgb, interpolation="nearest")
            ax.set_title(
                "kept" if place == head else f"{found.kept.reason[place]} {found.kept.score[place]:.2f}", fontsize=8
            )
        out.append(
            f"<p>Place {head} stands for {count:,} {'other' if count == 1 else 'others'}</p>{picture_tag(figure)}"
        )
    return out
