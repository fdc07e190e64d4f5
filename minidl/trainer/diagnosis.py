"""Diagnosis of runs whose numbers are no longer finite."""

from collections.abc import Iterable
from typing import Any

from minidl import rng
from minidl.batches import Batch
from minidl.engine.backward import no_grad
from minidl.engine.parameter import Parameter
from minidl.layers import terms, updates
from minidl.trainer.fusion import Plan
from minidl.trainer.loop import Run

CHANGED_BY_A_STEP = ("weights", "optimizer", "model", "random", "position")  # sections of the state


def non_finite_weight(parameters: Iterable[Parameter]) -> str | None:
    """Return the name of the first weight with NaN or infinity, or None."""
    return next((weight.name for weight in parameters if not _is_finite(weight)), None)


def repeat_until_failure(run: Run) -> str | None:
    """Repeat the remaining steps of the epoch until one fails.

    Repeated steps give the same bits. The state is left before the failed step.

    Returns
    -------
    str or None
        What was not finite first, and in which step; None if no step failed.
    """
    state = run.state
    if not run.position.samples:
        return f"the loss or a weight after step {state.step}, in batches that cannot be repeated,"
    run.begin_totals()
    step = run.make_step()
    for batch in run.batches_left():
        before = state.snapshot(*CHANGED_BY_A_STEP)
        found = _failing_layer(run.plan, batch, state.step)
        if found is None:
            step(batch)
            weight = non_finite_weight(state.model.parameters())
            found = None if weight is None else f"the update of {weight}"
        if found is not None:
            state.load_state(before)
            return f"{found} in step {state.step}"
    return None


def _failing_layer(plan: Plan, batch: Batch, step: int) -> str | None:
    """Return the first layer, or else the loss, that is not finite for a batch of the feed."""
    if not _is_finite(batch.x):
        return "the inputs"
    x = batch.x
    with rng.training(step=step), no_grad(), updates.collected(), terms.collected() as added:
        for layer in plan.layers:
            x = layer(x)
            if not _is_finite(x):
                return f"the outputs of {layer.label}"
        for layer, term in added:
            if not _is_finite(term):
                return f"a term of the loss by {layer.label}"
        loss = plan.loss_of(x, batch)
    return None if _is_finite(loss) else "the loss"


def _is_finite(x: Any) -> bool:
    """Return whether all values of a tensor, or of several, are finite; it waits for the device."""
    if isinstance(x, list):
        return all(map(_is_finite, x))
    with x.backend.active:
        return bool(x.backend.xp.isfinite(x.data).all())
