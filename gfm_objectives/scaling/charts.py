"""What a fit looks like: points, law, envelope; isoFLOP parabolas as a picture only, no estimate comes from them."""

from __future__ import annotations

import numpy as np

from gfm_objectives.scaling.fitting import Fit
from gfm_objectives.scaling.laws import Array
from gfm_objectives.svg import COLORS, GREY, INK, Axis, Chart, together

NEAR = 1.25  # runs within this factor of FLOPs lie on one isoFLOP line


def of_fit(fit: Fit, title: str) -> str:
    """The charts of a fit as one SVG file."""
    if fit.law.inputs == ("C",):
        return together([_against_flops(fit, title)])
    charts = [_by_size(fit, title)]
    if parabolas := _isoflops(fit):
        charts.append(parabolas)
    return together(charts)


def _against_flops(fit: Fit, title: str) -> Chart:
    x, y = fit.points.inputs(("C",))[:, 0], fit.points.y
    chart = Chart(
        Axis.around(x, "FLOPs", log=True),
        Axis.around(y, fit.points.of, log=fit.law.relative),
        title,
        f"{fit.points.of} against FLOPs, with the law {fit.law.formula}",
    )
    grid = np.geomspace(x.min(), x.max(), 60)
    f = fit.law.predict(fit.theta[None], grid[:, None] / fit.means)[0]
    chart.line(_kept(chart, grid, f), INK)
    for a, b in zip(x, y, strict=True):
        chart.dot(a, b, 0, about=f"{a:.3g} FLOPs: {b:.4g}")
    chart.legend = [("runs", 0, "o", False), (f"law {fit.law.formula}", INK, "s", False)]
    return chart


def _by_size(fit: Fit, title: str) -> Chart:
    """Against FLOPs, a line for each size, and the envelope: the law at the best size for each budget."""
    from gfm_objectives.scaling.optimum import best

    (n, d), y = fit.points.inputs(("N", "D")).T, fit.points.y
    flops = fit.points.column("C")
    chart = Chart(
        Axis.around(flops, "FLOPs", log=True),
        Axis.around(y, fit.points.of, log=fit.law.relative),
        title,
        f"{fit.points.of} against FLOPs by size, with the law {fit.law.formula} and its envelope",
    )
    sizes = sorted(set(n.tolist()))
    shown = (
        sizes if len(sizes) <= COLORS else [sizes[round(i * (len(sizes) - 1) / (COLORS - 1))] for i in range(COLORS)]
    )
    for i, size in enumerate(shown):
        own = n == size
        tokens = np.geomspace(d[own].min(), d[own].max(), 40)
        f = _law(fit, np.full_like(tokens, size), tokens)
        chart.line(_kept(chart, fit.points.flops_per * size * tokens, f), i, width=1.2)
        for a, b in zip(flops[own], y[own], strict=True):
            chart.dot(a, b, i, about=f"N {size:.3g}, {a:.3g} FLOPs: {b:.4g}")
        chart.legend.append((f"N = {size:.2g}", i, "o", False))
    if fit.bounded:
        grid = np.geomspace(flops.min(), flops.max(), 60)
        pairs = [best(fit, c, fit.theta[None]) for c in grid]
        f = _law(fit, *(np.array([float(p[k][0]) for p in pairs]) for k in (0, 1)))
        chart.line(_kept(chart, grid, f), INK, "6 4")
        chart.legend.append(("envelope", INK, "s", True))
    return chart


def _isoflops(fit: Fit) -> Chart | None:
    """Against N for budgets that at least four sizes share, with a parabola in log N through each."""
    (n, _), y, flops = fit.points.inputs(("N", "D")).T, fit.points.y, fit.points.column("C")
    groups, left = [], np.argsort(flops).tolist()
    while left:
        near = [i for i in left if flops[i] <= NEAR * flops[left[0]]]
        left = [i for i in left if i not in near]
        if len(set(n[near].tolist())) >= 4:
            groups.append(near)
    if not groups:
        return None
    every = np.concatenate(groups)
    chart = Chart(
        Axis.around(n[every], fit.points.meaning["N"], log=True),
        Axis.around(y[every], fit.points.of, log=fit.law.relative),
        "At equal FLOPs",
        "Parabolas through runs of equal FLOPs, a picture only",
    )
    for k, own in enumerate(groups[:COLORS]):
        a, b = np.log(n[own]), np.log(y[own]) if fit.law.relative else y[own]
        curve = np.polynomial.Polynomial.fit(a, b, 2)
        grid = np.linspace(a.min(), a.max(), 40)
        f = np.exp(curve(grid)) if fit.law.relative else curve(grid)
        chart.line(_kept(chart, np.exp(grid), f), k, width=1.2)
        for i in own:
            chart.dot(n[i], y[i], k, about=f"N {n[i]:.3g}, {flops[i]:.3g} FLOPs: {y[i]:.4g}")
        chart.legend.append((f"{np.exp(np.log(flops[own]).mean()):.1e} FLOPs", k, "o", False))
    chart.legend.append(("parabolas: a picture, no estimate", GREY, "x", False))
    return chart


def _law(fit: Fit, n: Array, d: Array) -> Array:
    return fit.law.predict(fit.theta[None], np.stack([n, d], 1) / fit.means)[0]


def _kept(chart: Chart, x: Array, y: Array) -> list[tuple[float, float]]:
    """The points of a curve inside the chart."""
    inside = (y >= chart.y.low) & (y <= chart.y.high) & (x >= chart.x.low) & (x <= chart.x.high)
    return list(zip(x[inside].tolist(), y[inside].tolist(), strict=True))
