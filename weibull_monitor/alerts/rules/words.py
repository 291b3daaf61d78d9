"""Words that rules share: numbers whose difference can be seen, and the cause that the data support."""

from __future__ import annotations

from typing import Final

import numpy as np

from weibull_monitor.alerts.rules.returned import where_back
from weibull_monitor.alerts.rules.writes import may_be_habit, unwritten
from weibull_monitor.alerts.statistics import Bools, quiet
from weibull_monitor.alerts.window import SampleWindow
from weibull_monitor.history.alert import apart as apart

MOST: Final = 0.5
"""From this share of the attention and feed-forward matrices on, a fault is one of all of them."""
SAME_ERRORS: Final = 4.0
"""Standard errors within which two values of k or ln λ are the same."""
SAME_SCALE: Final = 0.01
"""|Δ ln λ| within which a scale is the same, whatever its standard error."""
WORSE_FIT: Final = 0.005
"""Fall of R² from which on a fit got worse: twice the difference between a normal distribution and a straight line."""
FEW_JUMP: Final = 0.2
"""|Δ ln| of the RMS or of the largest value from which on it is a jump of its own beside the movement of λ …"""
FEW_SHARE: Final = 0.2
"""… and the share of it up to which λ stayed."""
R2_NOISE: Final = 0.06
"""sd(R²)·√n of a normal matrix."""
SE_LAMBDA: Final = 0.761
"""se(ln λ) in units of se(k)/k, at the normal anchor: 0.862/1.132 (`weibull.anchors`)."""


BY_STEPS: Final = (
    "No write to it between two steps was seen, so its steps did this. Check first the gradient norm, η of its parameter group, "
    "and the optimizer's moments; if these are right, go back to the last checkpoint."
)
"""What an alert says of a sudden change where writes are watched and there was none."""
UNSTEPPED: Final = (
    "The monitor does not know how far a step may move it: it is computed from other parameters (as with spectral norm), or its "
    "optimizer was not passed, or that keeps its own step sizes (Rprop). If you passed all optimizers, nothing has to be done."
)
"""What an info says of such a matrix."""


def share_of_body(window: SampleWindow, found: Bools) -> float:
    """Share of the trainable attention and feed-forward matrices among the ``found`` ones (components,); 0 if there are few."""
    body = window.components.body & window.components.trainable
    return float(found[body].mean()) if body.sum() >= 4 else 0.0


def cause_of(window: SampleWindow, i: int, found: Bools) -> str:
    """What may have changed a matrix in a way that its optimizer cannot, and one thing to do, as the data support it.

    Args:
        window: The window.
        i: Index of the component.
        found: The components that changed so at this sample, bool, shape (components,).
    """
    if share_of_body(window, found) >= MOST and window.steps[-2] == 0:
        return (
            "Most matrices changed at once after the first sample: probably weights were loaded after the monitor was made. Make "
            "it after loading. If that is not so, look at the gradient norm and at η of the first steps."
        )
    moments = of_state(window, i)
    seen = moments or window.now("written")[i] > 0.0
    return (f"{what_wrote(window, i, moments)}. " if seen else "") + _cause_of(window, i, found)


def what_wrote(window: SampleWindow, i: int, moments: bool) -> str:
    """That something wrote to a matrix, or to the optimizer's moments of it, and after which step."""
    what = "what it keeps of this matrix (its moments)" if moments else "this matrix"
    return f"Something other than the optimizer wrote to {what} after step {window.now('written_after')[i]:.0f}"


def of_state(window: SampleWindow, i: int) -> bool:
    """Whether only the optimizer's moments of a matrix were written to."""
    return bool(window.now("state_written")[i] > 0.0 and not window.now("written")[i] > 0.0)


def multiplied(window: SampleWindow, i: int) -> str:
    """What an alert says of a matrix whose λ changed, and k did not; empty of another."""
    with quiet():
        factor = window.now("lambda")[i] / window.before("lambda")[i]
        shift = abs(window.now("k")[i] - window.before("k")[i])
        alike = shift <= SAME_ERRORS * np.hypot(window.now("k_se")[i], window.before("k_se")[i])
    if not (alike and np.isfinite(factor)):
        return ""
    return f"k stayed, so its values were multiplied by {factor:.3g}, or replaced by others with the same k. "


def by_steps(window: SampleWindow, i: int) -> bool:
    """Whether no write to a matrix was seen (`unwritten`)."""
    return bool(unwritten(window)[i])


def _cause_of(window: SampleWindow, i: int, found: Bools) -> str:
    if of_state(window, i):
        return "If you did not set them, load the optimizer's state, and the weights, from the last checkpoint."
    if may_be_habit(window)[i]:
        return (
            "If that is done after each step (a projection, a clip), nothing has to be done. If not, find out what set these "
            "weights when training began."
        )
    if back := where_back(window):
        return back
    if share_of_body(window, found) >= MOST and window.now("written")[i] > 0.0:
        return (
            "Most matrices changed at once: other weights were loaded, averaged or merged. If it was not you, go back to the "
            "last checkpoint."
        )
    if share_of_body(window, found) >= MOST:
        return (
            "Most matrices changed at once, so this is not one layer: the optimizer's moments or the learning rate blew up "
            "between the two samples, or other weights were loaded. Look at the gradient norm and at η of every step since then."
        )
    if same_as(window, i, "baseline"):
        return (
            "k and λ are back where they began at step 0: this matrix was initialised anew. Load its weights from the last "
            "checkpoint."
        )
    if same_as(window, i, "before") or _of_few_values(window, i):
        return (
            "λ hardly moved, so few values changed, as after a flipped bit or a bad copy. Look at `weight.abs().argmax()`; if "
            "you did not set that value, go back to the last checkpoint."
        )
    if by_steps(window, i):
        return BY_STEPS
    if by_factor := multiplied(window, i):
        return by_factor + "If you did not set them, go back to the last checkpoint."
    if window.now("written")[i] > 0.0:
        return "If it was not you, go back to the last checkpoint."
    return (
        "Something other than the optimizer wrote to this matrix: weights that were loaded, or memory that was corrupted. If it "
        "was not you, go back to the last checkpoint."
    )


def _of_few_values(window: SampleWindow, i: int) -> bool:
    """Whether the RMS or the largest value jumped and λ did not, beside what the optimizer moved it in the meantime."""
    with quiet():
        moved = [abs(np.log(window.now(c)[i] / window.before(c)[i])) for c in ("lambda", "rms", "largest")]
    jumped = float(np.fmax(moved[1], moved[2]))
    return jumped >= FEW_JUMP and moved[0] <= FEW_SHARE * jumped


def fit_got_worse(window: SampleWindow, i: int) -> bool:
    """Whether R² of a matrix fell by more than noise since the sample before, as it does where a part of the values changed."""
    fallen = window.before("r2")[i] - window.now("r2")[i]
    return bool(fallen >= WORSE_FIT)


def mixed_case(window: SampleWindow, i: int) -> str:
    """What an alert says of a matrix whose k and scale jumped together, alone."""
    now, before = window.now, window.before
    with quiet():
        by_rms, by_scale = (abs(np.log(now(column)[i] / before(column)[i])) for column in ("rms", "lambda"))
    column, name = ("rms", "RMS") if by_rms >= by_scale else ("lambda", "λ")
    by = between(before(column)[i], now(column)[i], window.steps[-2])
    moved = f"Its {name} {by}, too, and no other matrix changed like this"
    if by_steps(window, i):
        return f"{moved}. {BY_STEPS}"
    return (
        f"{moved}: something was added to it, or a part of it was overwritten or scaled. Check first whether something wrote to "
        "it (an adapter that was merged, a checkpoint that was loaded), then the matrix by row (`weight.std(1)`). If it was not "
        "you, go back to the last checkpoint."
    )


def last_clean(window: SampleWindow) -> str:
    """When the model was last sampled without Inf and NaN, in words."""
    counts = np.nansum(window["nonfinite"], axis=1)  # (samples,)
    clean = [step for step, count in zip(window.steps, counts.tolist(), strict=True) if count == 0]
    if not clean:
        return (
            "all recent samples of the model have them" if len(window.steps) > 1 else "they were there from the start"
        )
    return f"the last sample of the model without them was at step {clean[-1]}"


def cause_of_shift(window: SampleWindow, i: int, found: Bools, others: str = "Most other matrices did not.") -> str:
    """What may have moved λ of a matrix suddenly, what to check first, and what to do, as the data support it.

    Args:
        window: The window.
        i: Index of the component.
        found: The components that moved so at this sample, bool, shape (components,).
        others: What the other matrices did, if it is one that moved.
    """
    eta, decay = _known(window, "eta", i), _known(window, "weight_decay", i)
    known = bool(np.isfinite(window.now("eta")[i]))
    as_set = (
        f"λ_wd {decay} and η {eta} are the values you set"
        if known
        else f"λ_wd {decay} and the other settings of the optimizer, whose η is not known, are those you chose"
    )
    many = share_of_body(window, found) >= MOST
    if unstepped(window)[i]:
        return UNSTEPPED
    if window.jumped[i]:
        return (
            f"η is now {eta}, more than twice its highest value before: check first that you set it, for this parameter group "
            "too. If not, correct it and go back to the checkpoint from before."
        )
    if many and window.now("lambda")[i] < window.before("lambda")[i]:
        return f"Most matrices shrink: check first whether {as_set}. If they are, something rescales the weights."
    if many:
        return (
            f"Most matrices do so at once: check first whether {as_set}, then the gradient norm and the last batches. After a "
            "plateau, this is how a model begins to learn."
        )
    if by_steps(window, i):
        return f"{others} {BY_STEPS}"
    return (
        f"{others} Check first "
        + (f"η and λ_wd of its parameter group, {eta} and {decay}" if known else f"whether {as_set}")
        + "; if they are right, "
        "whether something wrote to this matrix (a checkpoint that was loaded, an adapter that was merged). If it was not you, "
        "go back to the last checkpoint."
    )


def unstepped(window: SampleWindow) -> Bools:
    """Trainable matrices whose η is not known, though that of others is, or whose steps are not η; shape (components,)."""
    return window.once("unstepped", lambda: _unstepped(window))


def _unstepped(window: SampleWindow) -> Bools:
    known, trainable = np.isfinite(window.now("eta")), window.components.trainable
    others = (known & trainable).any(axis=-1, keepdims=True)
    found: Bools = (
        trainable & ~known & (others | (window.withheld.not_eta > 0))
    )  # Rprop keeps a step size of each value
    return found


def decimal(value: float, digits: int = 3) -> str:
    """A number in so many digits; a large one without an exponent.

    >>> decimal(0.0158), decimal(199.2), decimal(5317.3), decimal(4e13)
    ('0.0158', '199', '5,320', '4e+13')
    """
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e+" in text and abs(value) < 1e9 else text


def signed(change: float) -> str:
    """A change of ln λ as a signed share in percent.

    >>> signed(-0.25), signed(0.1), signed(-1e-5), signed(5.0)
    ('-22.1 %', '+10.5 %', '0.0 %', '+14,741 %')
    """
    share = 100 * np.expm1(change)
    text = f"{share:+.1f} %" if abs(share) < 1000 else f"{share:+,.0f} %"
    return "0.0 %" if text[1:] == "0.0 %" else text


def between(before: float, now: float, since: int) -> str:
    """A movement in words, after the name of what moved."""
    if not np.isfinite(before):
        return f"is {now:.4g} now"
    was, is_now = apart(before, now)
    return f"went from {was} to {is_now} since step {since}"


ONE_WAY_CASE: Final = (
    "Its RMS grew as it does when all steps of the optimizer go in one direction: its gradient kept its sign, so all of its "
    "values move alike and come to one size. Only the optimizer wrote to it. If the loss is not good either, check first the "
    "learning rate of its parameter group."
)
"""What an info says of a matrix whose k rose in steps that all go one way."""


LOST_CASE: Final = (
    "λ fell far more than the RMS, and no other matrix changed like this: some of its values became small, as when rows, columns "
    "or a page of memory are set to zero. Check first the matrix by row and by column (`weight.std(1)`, `weight.std(0)`). If it "
    "was not you, go back to the last checkpoint."
)
"""What an alert says of a matrix whose k fell while its size was kept."""


def same_as(window: SampleWindow, i: int, when: str) -> bool:
    """Whether k and λ are those of the baseline, or of the sample before, though λ was another one in between."""
    then = {c: window.baseline[c] if when == "baseline" else window.before(c) for c in ("k", "lambda", "k_se")}
    with quiet():
        noise = np.hypot(window.now("k_se")[i], then["k_se"][i])
        steady = abs(window.now("k")[i] - then["k"][i]) <= SAME_ERRORS * noise
        moved = abs(np.log(window.now("lambda")[i] / then["lambda"][i]))
        close = moved <= max(SAME_SCALE, SAME_ERRORS * SE_LAMBDA * noise / max(then["k"][i], 1e-3))
        away = (
            when == "before" or abs(np.log(window.before("lambda")[i] / then["lambda"][i])) > 3.0 * moved + SAME_SCALE
        )
    return bool(steady and close and away)


def _known(window: SampleWindow, column: str, i: int) -> str:
    value = window.now(column)[i]
    return f"{value:.3g}" if np.isfinite(value) else "not known"
