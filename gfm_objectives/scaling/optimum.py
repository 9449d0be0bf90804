"""Compute-optimal sizes from a law over N and D: the best N, D and D/N at C, and what 20 tokens a parameter cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gfm_objectives.scaling.fitting import Fit, Value
from gfm_objectives.scaling.laws import Array

RIDGE = 20.0  # tokens per parameter, language models' rule of thumb (Hoffmann et al. 2022, arXiv:2203.15556)


def best(fit: Fit, flops: float, theta: Array) -> tuple[Array, Array]:
    """N and D (R,) that minimise A/N^a + B/D^b under flops = k N D, for parameters theta (R, P); ibid., equation 4."""
    a, b = theta[:, 3], theta[:, 4]
    big_a, big_b = fit.coefficient(theta, 0), fit.coefficient(theta, 1)
    product = flops / fit.points.flops_per
    g = (a * big_a / (b * big_b)) ** (1 / (a + b))
    n = g * product ** (b / (a + b))
    return n, product / n


def at(fit: Fit, flops: float) -> dict[str, Value | float]:
    """The best at `flops`, and `ridge_cost`: how much worse `RIDGE` tokens a parameter are there, in the points' own
    unit. InputError beyond a decade of the points' FLOPs, or where the law is not bounded."""
    fit.check({"C": flops})
    product = flops / fit.points.flops_per

    def lost(theta: Array) -> Array:
        n, d = best(fit, flops, theta)
        ridge = (product / RIDGE) ** 0.5
        both = [_reducible(fit, theta, *sizes) for sizes in ((ridge, RIDGE * ridge), (n, d))]
        return both[0] - both[1]

    return {
        "flops": flops,
        "parameters": fit.value(lambda t: best(fit, flops, t)[0]),
        "tokens": fit.value(lambda t: best(fit, flops, t)[1]),
        "tokens_per_parameter": fit.value(lambda t: np.divide(*best(fit, flops, t)[::-1])),
        "ridge_cost": fit.value(lost, logarithmic=False),
    }


def _reducible(fit: Fit, theta: Array, n: Array | float, d: Array | float) -> Array:
    return fit.coefficient(theta, 0) / n ** theta[:, 3] + fit.coefficient(theta, 1) / d ** theta[:, 4]


def exponents(fit: Fit) -> dict[str, Value]:
    """How the best N and D grow with C: N ~ C^(b/(a+b)), D ~ C^(a/(a+b))."""
    return {
        "N": fit.value(lambda t: t[:, 4] / (t[:, 3] + t[:, 4]), logarithmic=False),
        "D": fit.value(lambda t: t[:, 3] / (t[:, 3] + t[:, 4]), logarithmic=False),
    }


def table(fit: Fit, asked: Sequence[float]) -> list[dict[str, Value | float]]:
    """At the FLOPs asked for, by default at the middle of the points' and at their most."""
    low, high = fit.span("C")
    return [at(fit, c) for c in (asked or [float(np.sqrt(low * high)), high])]


def words(fit: Fit, asked: Sequence[float]) -> list[str]:
    lines = []
    for row in table(fit, asked):
        n, d, ratio, cost = (row[k] for k in ("parameters", "tokens", "tokens_per_parameter", "ridge_cost"))
        assert isinstance(n, Value) and isinstance(d, Value) and isinstance(ratio, Value) and isinstance(cost, Value)
        lines.append(
            f"best at {row['flops']:.2g} FLOPs: N {n.value:.2g}, D {d.value:.2g}; tokens per parameter "
            f"{ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]; at {RIDGE:g} the {fit.points.of} is "
            f"{cost.value:.2g} [{cost.low:.2g}, {cost.high:.2g}] worse"
        )
    grow = exponents(fit)
    return [*lines, "best N ~ C^" + "{0.value:.2f} [{0.low:.2f}, {0.high:.2f}]".format(grow["N"])]
