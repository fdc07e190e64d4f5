"""What happens around training: history, checkpoints, early stopping, logs, and your own.

===========================================  =====================================================
`Callback`                                   subclass it, and override what you need
`History`                                    what each epoch logged; `fit` returns one
`ModelCheckpoint`                            keep the model in files, to resume or to use
`EarlyStopping`, `TerminateOnNaN`            stop when training no longer helps, or has failed
`LearningRateScheduler`, `ReduceLROnPlateau` change the learning rate between epochs
`CSVLogger`, `TensorBoard`                   write the epochs' numbers where others read them
===========================================  =====================================================
"""

from minidl.callbacks.base import Callback, CallbackList, History, LazyLogs, Logs
from minidl.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from minidl.callbacks.logs import CSVLogger, TensorBoard
from minidl.callbacks.non_finite import TerminateOnNaN
from minidl.callbacks.saving import ModelCheckpoint
from minidl.callbacks.stopping import EarlyStopping

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LazyLogs",
    "LearningRateScheduler",
    "Logs",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
]
