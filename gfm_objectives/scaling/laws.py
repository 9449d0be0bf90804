"""The forms a law may have, and their least-squares solution, for many resamples of the data at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EXPONENTS = np.geomspace(0.02, 2.0, 12)  # where a fit begins to look; published ones lie between 0.05 and 1
HUBER = 1.345  # in standard deviations: 95 % of the efficiency of least squares on Gaussian noise


@dataclass(frozen=True, slots=True)
class Law:
    """y = sum of coefficients x terms; every term but the constant is an input to the power of minus its exponent.

    inputs: columns of x; a constant comes first where `floor`; the other terms have the sign `sign`. relative: whether
    residuals are log(f) - log(y), for losses, or f - y, for scores and gains, which may be negative. Inputs are divided
    by their geometric mean before they get here, so that coefficients are of the size of y.

    Parameters theta (R, P) are [constant] + one coefficient for each input + one exponent for each input.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    floor: bool = True
    sign: int = 1
    relative: bool = True

    @property
    def exponents(self) -> slice:
        return slice(len(self.names) - len(self.inputs), None)

    def terms(self, exponents: Array, x: Array) -> Array:
        """exponents (R, K), x (n, K) -> the terms (R, n, [1 +] K)."""
        powers = self.sign * np.exp(-exponents[:, None, :] * np.log(x)[None])
        constant = np.ones((*powers.shape[:2], 1))
        return np.concatenate([constant, powers], 2) if self.floor else powers

    def predict(self, theta: Array, x: Array) -> Array:
        """theta (R, P), x (n, K) -> (R, n)."""
        coefficients = theta[:, : self.exponents.start]
        return np.einsum("rnk,rk->rn", self.terms(theta[:, self.exponents], x), coefficients)

    def residuals(self, theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Residuals (R, n) and their derivatives (R, n, P); infinite where a loss would be negative."""
        terms = self.terms(theta[:, self.exponents], x)
        coefficients = theta[:, : self.exponents.start]
        f = np.einsum("rnk,rk->rn", terms, coefficients)
        moving = (terms * coefficients[:, None, :])[:, :, int(self.floor) :]  # (R, n, K)
        slopes = np.concatenate([terms, -moving * np.log(x)[None]], 2)
        if not self.relative:
            return f - y, slopes
        positive = f > 0
        safe = np.where(positive, f, 1.0)
        return np.where(positive, np.log(safe) - np.log(y), np.inf), slopes / safe[:, :, None]


# E is the floor of a loss or the ceiling of a score.
LAWS = {
    "surface": Law("surface", "E + A/N^a + B/D^b", ("N", "D"), ("E", "A", "B", "a", "b")),
    "score_surface": Law(
        "score_surface", "E - A/N^a - B/D^b", ("N", "D"), ("E", "A", "B", "a", "b"), sign=-1, relative=False
    ),
    "power": Law("power", "A/C^a", ("C",), ("A", "a"), floor=False),
    "saturating": Law("saturating", "E - A/C^a", ("C",), ("E", "A", "a"), sign=-1, relative=False),
}


def begin(law: Law, x: Array, y: Array, keep: int = 6) -> Array:
    """(keep, P): the best of a grid of exponents, each with its own best coefficients.

    Variable projection (Golub and Pereyra 1973): given the exponents a law is linear, so the grid is over them alone.
    """
    from scipy.optimize import nnls

    grid = np.stack(np.meshgrid(*[EXPONENTS] * len(law.inputs), indexing="ij"), -1).reshape(-1, len(law.inputs))
    scale = y if law.relative else np.ones_like(y)
    found = []
    for exponents, terms in zip(grid, law.terms(grid, x), strict=True):
        columns = terms / scale[:, None]
        if law.relative:
            coefficients, rest = nnls(columns, y / scale)
        else:  # a ceiling may have either sign
            coefficients = np.linalg.lstsq(columns, y / scale, rcond=None)[0]
            rest = float(np.linalg.norm(columns @ coefficients - y / scale))
        found.append((rest, np.concatenate([coefficients, exponents])))
    found.sort(key=lambda f: f[0])
    return np.stack([theta for _, theta in found[:keep]])


def solve(
    law: Law, x: Array, y: Array, theta: Array, delta: float | None = None, steps: int = 100
) -> tuple[Array, Array]:
    """Levenberg-Marquardt from theta (R, P) to data y (R, n), all R at once; returns theta and the costs (R,).

    delta: Huber's, on the residuals; None is least squares.
    """
    damping = np.full(len(theta), 1e-2)
    residuals, slopes = law.residuals(theta, x, y)
    cost = _cost(residuals, delta)
    for _ in range(steps):
        weights = (
            np.ones_like(residuals) if delta is None else np.minimum(1, delta / np.maximum(abs(residuals), 1e-300))
        )
        weighted = slopes * weights[:, :, None]
        normal = np.einsum("rnp,rnq->rpq", weighted, slopes)
        gradient = np.einsum("rnp,rn->rp", weighted, residuals)
        diagonal = np.einsum("rpp->rp", normal)
        damped = (
            normal
            + np.eye(theta.shape[1]) * (damping[:, None] * diagonal + 1e-15 * diagonal.max(1, keepdims=True))[:, None]
        )
        tried = theta - np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            r, s = law.residuals(tried, x, y)
            c = _cost(r, delta)
        better = c < cost
        gained = np.where(better, cost - c, 0.0)
        theta, cost = np.where(better[:, None], tried, theta), np.where(better, c, cost)
        residuals, slopes = np.where(better[:, None], r, residuals), np.where(better[:, None, None], s, slopes)
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-12, 1e12)
        if (gained <= 1e-10 * cost).all() and (better | (damping > 1e3)).all():
            break
    return theta, cost


def _cost(residuals: Array, delta: float | None) -> Array:
    size = abs(residuals)
    if delta is None:
        return 0.5 * (size**2).sum(1)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - delta / 2)).sum(1)
