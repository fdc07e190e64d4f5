"""Early stopping."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from minidl.arguments import count, number
from minidl.callbacks.base import Logs
from minidl.callbacks.monitor import Monitor


@dataclass(eq=False, repr=False)
class EarlyStopping(Monitor):
    """End of training when a value has not improved for `patience` epochs.

    A resumed run goes on waiting, and one that was stopped stays stopped.

    Parameters
    ----------
    monitor : str
        The name of the value.
    min_delta : float
        The least change that counts as an improvement.
    patience : int
        The number of epochs without improvement before training ends.
    mode : {"auto", "min", "max"}
        Whether less or more is better. Auto is "min" for names that end in a word such as loss,
        error or mse, "max" for accuracy, acc, auc, f1, precision, recall and so on, and an error
        for other names.
    baseline : float, optional
        A value that must be bettered before the wait is reset.
    restore_best_weights : bool
        Whether the weights of the best epoch are restored when training ends. They stay on the
        device and are a part of checkpoints. After the restoration the run cannot be resumed.
    start_from_epoch : int
        The first epoch that counts.
    verbose : int
        Whether a line says that training was stopped.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range. When training begins, if no value of
        the name is logged; at the end of an epoch, if your callbacks have not added one.

    Examples
    --------
    >>> stopping = EarlyStopping("val_accuracy", patience=3, restore_best_weights=True)
    """

    remembered = ("best", "wait", "best_epoch", "stopped_epoch")

    monitor: str = "val_loss"
    min_delta: float = 0.0
    patience: int = 0
    _: KW_ONLY
    mode: str = "auto"
    baseline: float | None = None
    restore_best_weights: bool = False
    start_from_epoch: int = 0
    verbose: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.patience = count("EarlyStopping: patience", self.patience)
        self.start_from_epoch = count("EarlyStopping: start_from_epoch", self.start_from_epoch)
        if self.baseline is not None:
            self.baseline = number("EarlyStopping", "baseline", self.baseline, "(-inf, inf)")

    def on_train_begin(self, logs: Logs) -> None:
        """Check the name, and begin to wait."""
        super().on_train_begin(logs)
        if self.restore_best_weights:  # those of the history's epochs are not known
            self.best = None
        self.best_epoch = 0
        self.stopped_epoch = 0
        self.wait = 0
        self._best_weights: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Compare with the best epoch so far."""
        value = self.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        is_due = self._is_due(epoch, value)
        if self.restore_best_weights and (self.best_epoch == epoch or not self._best_weights):
            self._best_weights = self.model.train_state.snapshot("weights")
        if is_due:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            self.announce(f"Epoch {epoch + 1}: early stopping")

    def _is_due(self, epoch: int, value: float) -> bool:
        """Count an epoch, and return whether the wait is over."""
        self.wait += 1
        if self.improves(value):
            self.best_epoch = epoch
            if self.is_better(value, self.baseline):
                self.wait = 0
            return False
        return self.wait >= self.patience and epoch > 0

    def on_train_end(self, logs: Logs) -> None:
        """Restore the best weights."""
        if self._best_weights:
            state = self.model.train_state
            state.load_state(self._best_weights)
            state.obstacle = "EarlyStopping restored the best weights"
            epoch = self.best_epoch + 1
            self.announce(f"Restoring model weights from the end of the best epoch: {epoch}.")

    def state(self) -> dict[str, Any]:
        """Return what is remembered, and the best weights if they will be restored."""
        return super().state() | self._best_weights

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned; a run that was stopped stays stopped."""
        super().load_state(state)
        if self.restore_best_weights:
            self._best_weights = {n: state[n] for n in state if n.startswith("weights/")}
            if not self._best_weights:  # the run before did not restore, and kept none
                self.best = None
        self.model.stop_training = self.model.stop_training or self.stopped_epoch > 0
