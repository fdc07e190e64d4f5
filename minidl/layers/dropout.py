"""Dropout: in training each element is dropped with a probability, decided by its address."""

from typing import Any

from minidl import ops, rng
from minidl.autograd import Tensor, apply
from minidl.layers.base import Layer

SCALINGS = ("train", "inference")


class Dropout(Layer):
    """Drop each element with probability `rate` in training, and none in inference.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15
    (2014) 1929-1958. Which element is dropped is a function of the seed, the layer's stream, the
    training step, and the element's place in the batch and the sample: the same bits on every
    device, for every split of the batch.

    Parameters
    ----------
    rate : float
        The probability of being dropped, in [0, 1].
    seed : int, optional
        In [0, 2**64); the model's where it is None.
    stream : int, optional
        The layer's number, in [0, 2**20); the model gives one where it is None.
    scaling : {"train", "inference"}
        ``"train"`` is inverted dropout: what is kept is divided by 1 - rate in training.
        ``"inference"`` is the paper's form: outputs are multiplied by 1 - rate in inference.

    Attributes
    ----------
    step : int
        The step that the next call takes where ``training`` gives none.

    Examples
    --------
    >>> import minidl
    >>> layer = Dropout(0.5, seed=0)
    >>> x = Tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    >>> layer(x).numpy()
    array([[1., 1., 1., 1., 1., 1.]], dtype=float32)
    >>> with minidl.training(step=0):
    ...     layer(x).numpy()
    array([[0., 2., 0., 2., 2., 0.]], dtype=float32)
    >>> layer
    Dropout(rate=0.5, seed=0, stream=0, step=1, scaling='train')
    """

    def __init__(
        self,
        rate: float,
        *,
        seed: int | None = None,
        stream: int | None = None,
        scaling: str = "train",
        **layer_arguments: Any,
    ):
        super().__init__(**layer_arguments)
        if seed is not None:
            seed = rng.checked_integer("Dropout: seed", seed, 2**64)
        if stream is not None:
            stream = rng.checked_integer("Dropout: stream", stream, rng.LAYER_STREAMS)
        if scaling not in SCALINGS:
            raise ValueError(f"Dropout: scaling must be one of {SCALINGS}, received {scaling!r}")
        self.rate = rng.check_rate(rate)
        self.seed = seed
        self.stream = stream
        self.scaling = scaling
        self.step = 0
        self.stream_is_fixed = stream is not None  # given, or drawn from already

    def __repr__(self) -> str:
        return (
            f"Dropout(rate={self.rate}, seed={self.effective_seed}, stream={self.stream}, "
            f"step={self.step}, scaling={self.scaling!r})"
        )

    def call(self, x: Tensor) -> Tensor:
        """Return `x` with elements dropped in training, scaled as `scaling` says."""
        if rng.current_block() is None:
            return x if self.scaling == "train" else self._weigh(x)
        address = self.next_address(x)
        if self.rate == 0:
            return x
        rescale = self.scaling == "train"
        return apply(ops.dropout, x, rate=self.rate, address=address, rescale=rescale)

    def _weigh(self, x: Tensor) -> Tensor:
        """Multiply by the probability of being kept."""
        if self.rate == 1:  # zeros by selection: 0 * infinity would be NaN
            return apply(ops.dropout, x, rate=1.0, address=rng.Address(0, 0, 0))
        return x * (1 - self.rate)

    @property
    def effective_seed(self) -> int | None:
        """The seed of the next draw: the layer's own, or the model's until the first draw."""
        return self.placement.seed if self.seed is None and self.placement else self.seed

    def next_address(self, x: Tensor) -> rng.Address:
        """Return the address of this call in training on a batch like `x`, and count the call."""
        block = rng.current_block()
        if block is None:
            raise RuntimeError(f"{self.label}: draws in training only; use `with training():`")
        seed = self.effective_seed
        if seed is None:
            raise RuntimeError(
                f"{self.label}: to draw in training it needs a seed; put the layer in a model, "
                "or give it one: Dropout(rate, seed=0)"
            )
        if block.row_offset is not None:
            self._check_rows(block, x)
        number, step = self.stream or 0, self.step
        stream = number + block.first_stream
        if block.step is not None:
            # One step, several calls: each draws anew.
            stream += rng.LAYER_STREAMS * block.count_call(self)
            step = block.step
        if not block.first_stream:  # in training, not in a prediction
            self.step = step + 1
            self.seed, self.stream, self.stream_is_fixed = seed, number, True
        return rng.Address(seed, stream, step, block.row_offset or 0)

    def _check_rows(self, block: rng.TrainingBlock, x: Tensor) -> None:
        """Raise where a row of `x` is not a sample, so that an offset would mean nothing."""
        if x.ndim < 2:
            raise ValueError(
                f"{self.label}: row_offset needs inputs with a batch axis and features, "
                f"received shape {x.shape}"
            )
        if block.batch_size is not None and x.shape[0] != block.batch_size:
            raise ValueError(
                f"{self.label}: row_offset counts samples, but axis 0 of its input has length "
                f"{x.shape[0]} and the batch has {block.batch_size}; keep the batch on axis 0"
            )
