"""Prediction of `Model`, and its types for editors."""

from collections.abc import Iterable
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np

from minidl.arguments import positive_integer
from minidl.callbacks.base import Callback, Observers, checked_callbacks
from minidl.callbacks.progress import bar, checked_verbose
from minidl.engine.scope import keeps_scopes
from minidl.models.data import checked_batch_size
from minidl.trainer.fusion import Plan
from minidl.trainer.inference import Draws, MonteCarlo, Prediction
from minidl.trainer.uncertainty import Uncertainty

Size = int | None


class Rest(TypedDict, total=False):
    """Arguments of `predict` and `evaluate` on which the type of the result does not depend."""

    steps: int | None
    callbacks: Callback | Iterable[Callback] | None
    record: bool


class PredictMethods:
    """The part of `Model` that predicts."""

    @overload
    def predict(
        self, x: Any, batch_size: Size = ..., verbose: str | int = ..., **rest: Unpack[Rest]
    ) -> np.ndarray: ...
    @overload
    def predict(
        self, x: Any, batch_size: Size = ..., verbose: str | int = ..., *, samples: int,
        return_samples: Literal[True], **rest: Unpack[Rest],
    ) -> np.ndarray: ...  # fmt: skip
    @overload
    def predict(
        self, x: Any, batch_size: Size = ..., verbose: str | int = ..., *, samples: int,
        return_samples: Literal[False] = False, **rest: Unpack[Rest],
    ) -> Uncertainty: ...  # fmt: skip
    @keeps_scopes
    def predict(
        self: Any,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        *,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        samples: int | None = None,
        return_samples: bool = False,
        record: bool = True,
    ) -> Any:
        """Return the outputs for all samples on the host, in inference mode.

        Parameters
        ----------
        x, batch_size, steps, callbacks
            As in `evaluate`, with ``on_predict_`` methods. Of batches that are tuples, x is used.
        verbose : {"auto", 0, 1, 2}
            1 (auto) shows a bar on a terminal; 0 and 2 print nothing.
        samples : int, optional
            The number of outputs with dropout to draw for each x. Each draw has an address: seed,
            stream, number of the draw, and row in x, for any batch size. Only sums are kept, so
            memory does not grow with the number of draws.
        return_samples : bool
            Whether the drawn outputs themselves are returned, in memory of the host.
        record : bool
            As in `evaluate`. Each draw counts as a batch.

        Returns
        -------
        numpy.ndarray, or Uncertainty if `samples` is given
            The outputs, or mean, spread and uncertainty of the drawn outputs. With
            `return_samples` the drawn outputs, of shape (samples, n, ...).

        Raises
        ------
        ValueError
            If `return_samples` is given without `samples`.

        Examples
        --------
        >>> from minidl import layers, models
        >>> model = models.Sequential([layers.Dense(2, kernel_initializer="ones")])
        >>> model.predict(np.array([[1, 2], [3, 4]]))
        array([[3., 3.],
               [7., 7.]], dtype=float32)
        """
        batch_size = checked_batch_size("predict: batch_size", batch_size)
        verbose = checked_verbose("predict", verbose)
        observers = Observers("predict", checked_callbacks(callbacks, "predict"))
        inputs = self._inputs(x, steps)
        if return_samples and samples is None:
            raise ValueError(
                "predict: expected samples with return_samples=True, got None. Pass samples=50."
            )
        draws = None if samples is None else positive_integer("predict: samples", samples)
        plan = Plan(self._planned_layers(), self.backend, self.dtype, inputs)
        batches = bar("Prediction", plan, batch_size, verbose)
        runs = plan.samples.steps(batch_size)
        parts = self, plan, record, runs
        draw = Draws if return_samples else MonteCarlo
        prediction = draw(*parts, draws) if draws else Prediction(*parts)
        observers.begin(self, {"steps": runs, "verbose": verbose})
        outputs = prediction.of(observers.watching(batches, lambda: {"outputs": prediction.latest}))
        observers.end({})
        if self.run is None:
            self.recording = prediction.report
        return outputs
