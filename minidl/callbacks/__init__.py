"""Callbacks: actions around training.

============================================  =====================================================
`Callback`                                    base class of your own
`History`                                     the logs of each epoch; `fit` returns one
`ModelCheckpoint`                             files, to resume training or to use the model
`BackupAndRestore`                            training that resumes by itself after an interruption
`EarlyStopping`, `TerminateOnNaN`             end of training when it no longer helps, or fails
`LearningRateScheduler`, `ReduceLROnPlateau`  changes of the learning rate between epochs
`CSVLogger`, `TensorBoard`                    logs for other programs
`LambdaCallback`                              a callback of functions
============================================  =====================================================
"""

from minidl.callbacks.backup import BackupAndRestore
from minidl.callbacks.base import Callback, CallbackList, Logs
from minidl.callbacks.functions import LambdaCallback
from minidl.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from minidl.callbacks.logs import CSVLogger, TensorBoard
from minidl.callbacks.non_finite import TerminateOnNaN
from minidl.callbacks.saving import ModelCheckpoint
from minidl.callbacks.stopping import EarlyStopping
from minidl.trainer.state import History

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "Logs",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
]
