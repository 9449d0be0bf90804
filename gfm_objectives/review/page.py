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
figure:focus{outline:3px solid #0b62c4}figcaption{margin-top:.5rem}
figure div{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.6rem}
figure img{width:100%;aspect-ratio:1;image-rendering:pixelated}
#overview,#doubt{width:100%;max-height:30rem;object-fit:contain}
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
    tiles: Sequence[tuple[Tile, Mapping[str, str]]],
    areas: Sequence[Mapping[str, str]],
    notes: Sequence[str],
    size: tuple[int, int],
) -> None:
    """tiles: with their pictures, what each shows and its name; areas: rows of the table of areas; size: of the map,
    height and width in pixels, of which pictures/overview.png and doubt.png show all."""
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
        "<p>The least sure, chosen to differ in classes and doubt. Keys: j and k, or the arrows. Left the image (of a "
        "series its first and its last date), then the map, then the doubt (black none, white most).</p>"
        f"<p>{legend}</p>",
        _overview([t for t, _ in tiles], size),
        "<p>The doubt everywhere:</p>",
        '<img id="doubt" src="pictures/doubt.png" alt="doubt of the map">',
        figures,
    ]
    title = escape(f"Review: {card.task['name']}")
    disk.write(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><body><h1>{title}</h1>\n{chr(10).join(parts)}\n"
        f"<script>{SCRIPT}</script></body></html>\n",
    )


def _overview(tiles: Sequence[Tile], size: tuple[int, int]) -> str:
    """The whole map, with a frame around every tile that leads to it."""
    height, width = size
    frame = 'fill="#fff" fill-opacity="0" stroke="#d00000" stroke-width="2" vector-effect="non-scaling-stroke"'
    frames = "".join(
        f'<a href="#{t.name}" aria-label="tile {k}">'
        f'<rect x="{t.column}" y="{t.row}" width="{t.size}" height="{t.size}" {frame}/></a>'
        for k, t in enumerate(tiles, 1)
    )
    return (
        f'<svg id="overview" viewBox="0 0 {width} {height}" role="img" aria-label="the map and its tiles">'
        f'<image href="pictures/overview.png" width="{width}" height="{height}"/>{frames}</svg>'
    )


def _figure(number: int, tile: Tile, names: Mapping[str, str], card: Card) -> str:
    order = sorted(zip(tile.shares, card.legend.classes, strict=True), reverse=True)[:3]
    shares = ", ".join(f"{escape(n)} {s:.0%}" for s, n in order if s)
    said = f"{number}. {tile.name}: doubt {tile.doubt:.2f}; {shares}"
    pictures = "".join(
        f'<img src="pictures/{n}" alt="{what} of tile {number}" loading="lazy">' for what, n in names.items()
    )
    said += f"<br>draw into labels/{tile.name}.tif (guess/ has the map's own)"
    return f'<figure tabindex="0" id="{tile.name}"><div>{pictures}</div><figcaption>{said}</figcaption></figure>'


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(k)}</th>" for k in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(v)}</td>' for v in r.values())}</tr>" for r in rows)
    return f"<table><tr>{head}</tr>{body}</table>".replace("+-", "±")


def _calibration(about: Mapping[str, Any]) -> str:
    """Reliability: of what is said with a probability, the share that is right; by class, as small drawings."""
    if not about:
        return ""
    drawings = "".join(_reliability(name, points) for name, points in about["reliability"].items())
    told = (
        "Reliability on test, after the temperature: across the probability that is said, up the share that is right."
    )
    return f"<p>{told} On the line they agree.</p><p>{drawings}</p>"


def _reliability(name: str, points: Sequence[Sequence[float]]) -> str:
    """Of one class: across the probability that is said, up the share that is right; larger dots are more pixels."""
    most = max((n for n, _, _ in points), default=1)
    at = [(34 + 120 * p, 130 - 120 * right, 2 + 4 * (n / most) ** 0.5) for n, p, right in points]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="#0b62c4"/>' for x, y, r in at)
    pixels = f"{sum(n for n, _, _ in points):,.0f} pixels"
    words = [(34, 144, "start", "0"), (154, 144, "end", "1"), (28, 130, "end", "0"), (28, 18, "end", "1")]
    words += [(94, 144, "middle", "said"), (28, 74, "end", "right"), (34, 164, "start", f"{escape(name)}: {pixels}")]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{a}">{t}</text>' for x, y, a, t in words)
    return (
        f'<svg width="200" height="172" font-size="12" fill="currentColor" role="img" '
        f'aria-label="reliability of {escape(name)}"><path d="M34 130L154 10M34 10V130H154" stroke="#888" fill="none"/>'
        f"{dots}{texts}</svg>"
    )
