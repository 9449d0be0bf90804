"""The page of a review: one file of HTML beside its pictures, which works from disk and by keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gfm_objectives import disk
from gfm_objectives.predict.raster import colours
from gfm_objectives.review.choosing import Tile
from gfm_objectives.runs.segmenter import Card

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}figure{margin:1rem 0;padding:1rem;border:1px solid #ccc;border-radius:6px}
figure:focus{outline:3px solid #0b62c4}figure img{width:31%;min-width:9rem;image-rendering:pixelated;margin-right:1%}
.key{display:inline-block;width:1em;height:1em;border:1px solid #888;vertical-align:-.1em;margin:0 .3em 0 1em}
@media(prefers-color-scheme:dark){body{background:#161616;color:#eee}td,th{border-color:#444}}
"""
SCRIPT = """
const tiles=[...document.querySelectorAll('figure')];
addEventListener('keydown',e=>{const i=tiles.indexOf(document.activeElement);
const step={j:1,ArrowRight:1,k:-1,ArrowLeft:-1}[e.key];if(!step)return;
const next=tiles[Math.max(0,Math.min(tiles.length-1,i<0?0:i+step))];next.focus();next.scrollIntoView({block:'center'});
e.preventDefault();});
"""


def write_page(
    path: Path,
    card: Card,
    tiles: Sequence[tuple[Tile, Sequence[str]]],
    areas: Sequence[Mapping[str, str]],
    notes: Sequence[str],
) -> None:
    """tiles: with the names of their pictures (image, map, doubt); areas: rows of the table of areas."""
    legend = "".join(
        f'<span class="key" style="background:{c}"></span>{escape(n)}'
        for n, c in zip(card.legend.classes, colours(card.legend), strict=True)
    )
    figures = "\n".join(_figure(k, t, names, card) for k, (t, names) in enumerate(tiles, 1))
    parts = [
        "<h2>How far to believe it</h2>",
        *(f"<p>{escape(n)}</p>" for n in notes),
        _calibration(card.calibration),
        "<h2>Areas</h2>",
        _table(areas),
        f"<h2>{len(tiles)} tiles to look at</h2>",
        "<p>The least sure, no two alike. Keys: j and k, or the arrows. Left the image, then the map, then the doubt "
        f"(black none, white most).</p><p>{legend}</p>",
        figures,
    ]
    title = escape(f"Review: {card.task['name']}")
    disk.write(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><body><h1>{title}</h1>\n{chr(10).join(parts)}\n"
        f"<script>{SCRIPT}</script></body></html>\n",
    )


def _figure(number: int, tile: Tile, names: Sequence[str], card: Card) -> str:
    order = sorted(zip(tile.shares, card.legend.classes, strict=True), reverse=True)[:3]
    shares = ", ".join(f"{escape(n)} {s:.0%}" for s, n in order if s)
    said = f"{number}. {tile.name}: doubt {tile.doubt:.2f}; {shares}"
    pictures = "".join(
        f'<img src="pictures/{n}" alt="{what} of tile {number}" loading="lazy">'
        for n, what in zip(names, ("image", "map", "doubt"), strict=True)
    )
    where = f"draw into labels/{tile.name}.tif (guess/ has the map's own)"
    return f'<figure tabindex="0" id="{tile.name}">{pictures}<figcaption>{said}<br>{where}</figcaption></figure>'


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(k)}</th>" for k in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(v)}</td>' for v in r.values())}</tr>" for r in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _calibration(about: Mapping[str, Any]) -> str:
    """Reliability: of what is said with a probability, the share that is right; by class, as small drawings."""
    if not about:
        return ""
    drawings = "".join(_reliability(name, points) for name, points in about["reliability"].items())
    return f"<p>Reliability on test, after the temperature; the line is what it should be.</p><p>{drawings}</p>"


def _reliability(name: str, points: Sequence[Sequence[float]]) -> str:
    most = max((n for n, _, _ in points), default=1)
    at = [(10 + 100 * p, 110 - 100 * right, 2 + 4 * (n / most) ** 0.5) for n, p, right in points]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="#0b62c4"/>' for x, y, r in at)
    told = f"{escape(name)}: {sum(n for n, _, _ in points):.0f} pixels"
    return (
        f'<svg width="130" height="140" role="img" aria-label="reliability of {escape(name)}">'
        f'<path d="M10 110L110 10M10 10V110H110" stroke="#888" fill="none"/>{dots}'
        f'<text x="10" y="130" font-size="11" fill="currentColor">{told}</text></svg>'
    )
