"""The alignment force from checkpoints alone, without the optimizer's state: the slope of ‖w‖², and what decay took.

Between steps ‖w‖² changes by alignment, injection and decay (`weibull_monitor.scaling.forces`). Decay is known from η and
λ_wd, and the change of ‖w‖² is the slope of a smooth curve through the checkpoints. What is left is alignment and injection:

    d ln‖w‖²/dt + 2ηλ_wd = (alignment + injection)/‖w‖²

T. Ding, arXiv:2606.19367 (2026), recovers 92 to 94 % of the alignment with a spline of the displacement; docs/scaling.md has
what this recovers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEAST: Final = 4
"""Checkpoints that a curve needs."""


def slopes(x: Array, y: Array) -> Array:
    """The slopes of the natural cubic spline through points, at the points.

    The second derivatives m solve h_{i-1}·m_{i-1} + 2(h_{i-1} + h_i)·m_i + h_i·m_{i+1} = 6(d_i - d_{i-1}), with steps h and
    differences d (C. de Boor, "A Practical Guide to Splines", 1978, chapter IV).

    Args:
        x: Rising places, (points,).
        y: Values, (points,) or (points, curves).

    >>> slopes(np.arange(5.0), 3.0 * np.arange(5.0)).round(6).tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0]
    """
    h = np.diff(x)  # (points - 1,)
    wide = h.reshape(-1, *[1] * (y.ndim - 1))
    d = np.diff(y, axis=0) / wide
    inner = len(x) - 2
    system = np.zeros((inner, inner))
    system[range(inner), range(inner)] = 2.0 * (h[:-1] + h[1:])
    system[range(inner - 1), range(1, inner)] = system[range(1, inner), range(inner - 1)] = h[1:-1]
    m = np.zeros_like(y, dtype=np.float64)  # 0 at both ends
    m[1:-1] = np.linalg.solve(system, 6.0 * np.diff(d, axis=0))
    out = np.empty_like(m)
    out[:-1] = d - wide * (2.0 * m[:-1] + m[1:]) / 6.0
    out[-1] = d[-1] + wide[-1] * (2.0 * m[-1] + m[-2]) / 6.0
    return out


def recovered_alignment(steps: Sequence[int], rms: Array, eta: Sequence[float], weight_decay: float) -> Array:
    """Alignment and injection together, per step, over ‖w‖²: positive where they make the weights grow.

    Args:
        steps: Steps of the checkpoints, rising; `LEAST` or more.
        rms: RMS of the weights, (checkpoints,) or (checkpoints, matrices), above 0.
        eta: η at each checkpoint.
        weight_decay: λ_wd, decoupled.

    Returns:
        The shape of ``rms``.

    Raises:
        ValueError: For too few checkpoints.

    >>> t = np.arange(0, 5000, 500)
    >>> decayed = np.exp(-1e-4 * t)  # nothing but decay with η 1e-3 and λ_wd 0.1
    >>> bool(np.abs(recovered_alignment(t, decayed, [1e-3] * 10, 0.1)).max() < 1e-9)
    True
    """
    if len(steps) < LEAST:
        raise ValueError(f"{len(steps)} checkpoints are too few for a curve; {LEAST} are needed")
    growth = slopes(np.asarray(steps, dtype=np.float64), 2.0 * np.log(rms))
    decay = 2.0 * np.asarray(eta, dtype=np.float64) * weight_decay
    return growth + decay.reshape(-1, *[1] * (growth.ndim - 1))


def rates_at(steps: Sequence[int], logged: Mapping[int, float]) -> list[float] | None:
    """η at steps, between those at which it was logged; None if it was not logged over the whole stretch.

    >>> rates_at([0, 50, 100], {1: 0.0, 100: 1.0})[2], rates_at([500], {1: 0.1, 100: 0.1}) is None
    (1.0, True)
    """
    if not logged or steps[-1] > max(logged) + _gap(logged):
        return None
    known = sorted(logged)
    return [float(eta) for eta in np.interp(steps, known, [logged[step] for step in known])]


def _gap(logged: Mapping[int, float]) -> int:
    known = sorted(logged)
    return max((b - a for a, b in itertools.pairwise(known)), default=0)
