"""A law fitted to points, its intervals by resampling trunks, and what it may be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gfm_objectives.errors import InputError
from gfm_objectives.scaling.laws import HUBER, LAWS, Array, Law, begin, solve
from gfm_objectives.scaling.points import Points

METHODS = ("huber", "least_squares")
LEVEL = 0.95
DECADE = 10.0  # how far beyond the points a law may be asked
STEEP = 20.0  # an exponent that large is no exponent: the term is gone within the points
FLAT = 0.01  # nor one that small: over four decades the term is a straight line in the logarithm to 5 %, without an end


@dataclass(frozen=True, slots=True)
class Value:
    """A number and its 95 % interval; low or high is infinite where the points do not bound it."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite([self.value, self.low, self.high]).all())

    def plain(self) -> dict[str, object]:
        """As JSON; a side that is not bounded is null."""
        sides = [x if np.isfinite(x) else None for x in (self.low, self.high)]
        return {"value": self.value if np.isfinite(self.value) else None, "interval": sides, "bounded": self.bounded}


@dataclass(frozen=True, slots=True)
class Fit:
    """theta (P,) in scaled inputs, its resamples (R, P), and the geometric means (K,) the inputs were divided by."""

    law: Law
    points: Points
    method: str
    theta: Array
    resamples: Array
    means: Array
    widening: float

    def value(self, of: Callable[[Array], Array], logarithmic: bool = True) -> Value:
        """What `of` makes of parameters (R, P) -> (R,), with its interval, made in the logarithm where `logarithmic`.

        The resamples' percentiles, each moved away from the estimate by Student's t over the normal's quantile, with as
        many degrees of freedom as there are trunks more than parameters.
        """
        with np.errstate(all="ignore"):
            point, draws = float(of(self.theta[None])[0]), of(self.resamples)
            if logarithmic:
                point, draws = np.log(point), np.log(draws)
        lost = ~np.isfinite(draws)
        if not np.isfinite(point) or lost.mean() > (1 - LEVEL) / 2:
            value = float(np.exp(point)) if logarithmic else point
            return Value(value, 0.0 if logarithmic else -np.inf, np.inf)
        low, high = np.quantile(draws[~lost], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        sides = [point, *(point + self.widening * (side - point) for side in (min(low, point), max(high, point)))]
        return Value(*(float(np.exp(s)) if logarithmic else float(s) for s in sides))

    def parameters(self) -> dict[str, Value]:
        """The law's own parameters, in the points' units."""
        start = self.law.exponents.start
        out = {}
        for i, name in enumerate(self.law.names):
            if i >= start or (self.law.floor and i == 0):
                found = self.value(lambda t, i=i: t[:, i], logarithmic=False)  # type: ignore[misc]
                flat, steep = i >= start and found.low < FLAT, i >= start and found.high > STEEP
                out[name] = Value(found.value, -np.inf if flat else found.low, np.inf) if flat or steep else found
            else:
                k = i - int(self.law.floor)  # what falls with compute has a coefficient below 0, and no logarithm
                out[name] = self.value(lambda t, k=k: self.coefficient(t, k), bool(self.theta[i] > 0))  # type: ignore[misc]
        if not all(out[n].bounded for n in self.law.names[start:]):  # a term without a shape leaves the rest open
            out = {n: v if n in self.law.names[start:] else Value(v.value, -np.inf, np.inf) for n, v in out.items()}
        return out

    def coefficient(self, theta: Array, k: int) -> Array:
        """The coefficient (R,) of input k in the points' units."""
        start = self.law.exponents.start
        return theta[:, int(self.law.floor) + k] * self.means[k] ** theta[:, start + k]

    @property
    def bounded(self) -> bool:
        return all(v.bounded for v in self.parameters().values())

    def predict(self, *inputs: float) -> Value:
        """The law at N, D (or C), with the interval of the law (not of a further run). InputError where that is more
        than a decade beyond the points, or the law is not bounded."""
        self.check(dict(zip(self.law.inputs, inputs, strict=True)))
        x = np.array(inputs)[None] / self.means
        return self.value(lambda t: self.law.predict(t, x)[:, 0], logarithmic=self.law.relative)

    def check(self, at: dict[str, float]) -> None:
        """InputError where the law should not be asked at these inputs."""
        if not self.bounded:
            loose = [n for n, v in self.parameters().items() if not v.bounded]
            raise InputError(
                f"the points do not bound {', '.join(loose)}: nothing is extrapolated; add runs that differ more"
            )
        for name, x in at.items():
            measured = self.span(name)
            if not measured[0] / DECADE <= x <= measured[1] * DECADE:
                raise InputError(
                    f"{name}={x:.3g}: more than a decade beyond the points ({measured[0]:.3g} to {measured[1]:.3g}); "
                    "a law is not to be trusted there"
                )

    def span(self, name: str) -> tuple[float, float]:
        """The least and the largest of an input among the points."""
        x = self.points.column(name)
        return float(x.min()), float(x.max())


def fit(points: Points, law: str | None = None, method: str = "huber", resamples: int = 1000, seed: int = 0) -> Fit:
    """Fit a law (a key of LAWS; by default what the columns allow) with one of METHODS.

    Losses are compared in the logarithm, scores and gains as they are. huber: Huber's loss, linear from 1.345 robust
    deviations of the least-squares residuals on. Intervals: a wild bootstrap of whole trunks (Cameron, Gelbach and
    Miller 2008): the design stays as it is, the residuals of a trunk keep or change their sign together, enlarged by
    their leverage. InputError where there are too few points or inputs that move together.
    """
    assert method in METHODS, method
    form = LAWS[law or usual(points)]
    x, y = points.inputs(form.inputs), points.y
    _check(form, points, x)
    means = np.exp(np.log(x).mean(0))
    z = x / means
    start = begin(form, z, y)
    found, cost = solve(form, z, np.broadcast_to(y, (len(start), len(y))), start)
    theta, delta = found[[int(np.argmin(cost))]], None
    if method == "huber":
        residuals = form.residuals(theta, z, y)[0][0]
        deviation = 1.4826 * float(np.median(abs(residuals)))
        delta = HUBER * max(deviation, 1e-12)
        theta, _ = solve(form, z, y[None], theta, delta)
    draws = _wild(form, z, y, theta, points.trunks, resamples, seed)
    again, _ = solve(form, z, draws, np.repeat(theta, resamples, 0), delta)
    return Fit(form, points, method, theta[0], again, means, _widening(points, form))


def usual(points: Points) -> str:
    """The law that the columns allow: over N and D where they are there, else over C."""
    whole = {points.meaning["N"], points.meaning["D"]} <= points.values.keys()
    if points.falls:
        return "surface" if whole else "power"
    return "score_surface" if whole else "saturating"


def _check(law: Law, points: Points, x: Array) -> None:
    groups = len(set(points.trunks.tolist()))
    if groups < len(law.names) + 3:
        raise InputError(
            f"{groups} independent points: the law {law.formula} has {len(law.names)} parameters; give at least "
            f"{len(law.names) + 3}"
        )
    if law.relative and (points.y <= 0).any():
        raise InputError(
            f"{points.of}: {points.y.min():g} among the points; losses are positive, as is all that law={law.name} is "
            "fitted to; of=score fits what grows and may be negative"
        )
    for name, column in zip(law.inputs, x.T, strict=True):
        if len(set(column.tolist())) < 3:
            raise InputError(f"{points.meaning[name]}: {len(set(column.tolist()))} different values; a law needs three")
    if len(law.inputs) == 2 and abs(np.corrcoef(np.log(x).T)[0, 1]) > 0.98:
        both = " and ".join(points.meaning[n] for n in law.inputs)
        raise InputError(f"{both} move together, so their terms cannot be told apart; vary one at a fixed other")


def _wild(law: Law, x: Array, y: Array, theta: Array, trunks: np.ndarray, resamples: int, seed: int) -> Array:
    """(R, n) data as they might have been."""
    residuals, slopes = (a[0] for a in law.residuals(theta, x, y))
    hat = slopes @ np.linalg.pinv(slopes)  # (n, n)
    # HC3: a residual is smaller than its error by 1 - leverage (MacKinnon and White 1985).
    enlarged = residuals / np.maximum(1 - np.diag(hat), 0.1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (resamples, int(trunks.max()) + 1))[:, trunks]
    f = law.predict(theta, x)
    return f * np.exp(-signs * enlarged) if law.relative else f - signs * enlarged


def _widening(points: Points, law: Law) -> float:
    from scipy.special import ndtri, stdtrit  # the quantiles of scipy.stats, which takes seconds to import

    freedom = len(set(points.trunks.tolist())) - len(law.names)
    return float(stdtrit(freedom, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2))
