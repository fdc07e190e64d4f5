"""What of Keras and PyTorch is not in minidl, and the nearest way there is."""

import functools
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, NoReturn

TWO_CLASSES = "end with Dense(2, activation='softmax') and use sparse_categorical_crossentropy"
SEED = "randomness is owned: give the model its seed="
PARAMETERS = "use model.parameters(), or model.get_weights() for arrays"
PARAMETERS_OF_A_LAYER = "use layer.parameters(), of which each has numpy()"
FREEZE = "set requires_grad of each of its parameters(), then compile"
ERROR_METRIC = "subclass metrics.Metric, or use the loss that fit reports"

NEAREST: dict[str, dict[str, str]] = {
    # names in modules
    "minidl": {
        "Model": "use models.Model",
        "Sequential": "use models.Sequential",
        "load": "use models.load",
        "manual_seed": SEED,
        "nn": "use layers, losses and models",
        "optim": "use optimizers",
        "tensor": "use Tensor",
        "utils": SEED + "; one-hot targets are np.eye(classes)[y]",
    },
    "callbacks": {
        "BackupAndRestore": "use ModelCheckpoint and fit(resume=True)",
        "LambdaCallback": "subclass callbacks.Callback",
    },
    "losses": {
        "BinaryCrossentropy": TWO_CLASSES,
        "CrossEntropyLoss": "use SparseCategoricalCrossentropy(from_logits=True)",
        "MSELoss": "use MeanSquaredError",
        "MeanAbsoluteError": "subclass losses.Loss",
    },
    "metrics": {
        "AUC": "subclass metrics.Metric",
        "BinaryAccuracy": "use Accuracy, with one output for each of the two classes",
        "MeanAbsoluteError": ERROR_METRIC,
        "MeanSquaredError": ERROR_METRIC,
        "Precision": "subclass metrics.Metric",
        "Recall": "subclass metrics.Metric",
    },
    "models": {
        "load_model": "use models.load",
        "save_model": "use model.save",
    },
    "optimizers": {
        "Adagrad": "subclass optimizers.Optimizer",
        "Nadam": "subclass optimizers.Optimizer",
    },
    "layers": {
        "Conv2D": "minidl trains multilayer networks; use Flatten and Dense",
        "BatchNormalization": "subclass layers.Layer",
        "GaussianDropout": "use Dropout",
        "AlphaDropout": "use Dropout",
        "SpatialDropout1D": "use Dropout",
        "Embedding": "subclass layers.Layer",
        "LeakyReLU": "use Activation with a function of a tensor",
        "Lambda": "use Activation with a function of a tensor",
    },
    # attributes
    "Layer": {
        "get_weights": PARAMETERS_OF_A_LAYER,
        "kernel": "use layer.weight",
        "set_weights": "use model.set_weights",
        "trainable": FREEZE,
        "trainable_variables": PARAMETERS_OF_A_LAYER,
        "trainable_weights": PARAMETERS_OF_A_LAYER,
        "weights": PARAMETERS_OF_A_LAYER,
    },
    "Model": {
        "cuda": "give device= to the model",
        "eval": "a model is in inference mode but within `with minidl.training():`",
        "get_layer": "use model.layers",
        "load_state_dict": "use model.load_weights or model.set_weights",
        "state_dict": "use model.save_weights or model.get_weights",
        "to": "give device= to the model, or to models.load",
        "train": "use `with minidl.training(step=step):`",
        "train_on_batch": "use loss(y, model(x)).backward() and optimizer.update",
        "trainable_variables": PARAMETERS,
        "trainable_weights": PARAMETERS,
        "weights": PARAMETERS,
    },
    "Optimizer": {
        "apply_gradients": "use loss.backward() and optimizer.update(model.parameters())",
        "lr": "use optimizer.learning_rate",
        "minimize": "use loss.backward() and optimizer.update(model.parameters())",
        "step": "use optimizer.update(model.parameters())",
        "zero_grad": "update clears the gradients; leave it out",
    },
    # names for compile
    "loss": {
        "bce": TWO_CLASSES,
        "binary_crossentropy": TWO_CLASSES,
        "mae": "subclass losses.Loss",
        "mean_absolute_error": "subclass losses.Loss",
    },
    "metric": {
        "binary_accuracy": "use accuracy, with one output for each of the two classes",
        "mae": ERROR_METRIC,
        "mean_absolute_error": ERROR_METRIC,
        "mean_squared_error": ERROR_METRIC,
        "mse": ERROR_METRIC,
    },
    "optimizer": {
        "adagrad": "subclass optimizers.Optimizer",
        "nadam": "subclass optimizers.Optimizer",
    },
    # arguments
    "layer": {
        "batch_size": "give it to fit",
        "activity_regularizer": "add a term to a loss of your own",
        "bias": "use use_bias",
        "bias_constraint": "set layer.bias.constraint after building",
        "bias_regularizer": "use the optimizer's weight_decay",
        "dtype": "give the dtype to the model",
        "input_dim": "use input_shape=(n,)",
        "kernel_regularizer": "use the optimizer's weight_decay",
        "noise_shape": "every element is decided by itself",
        "trainable": FREEZE,
        "weights": "use model.set_weights",
    },
    "call": {
        "training": "use `with minidl.training():` for training mode",
        "mask": "leave it out",
    },
    # what a subclass defines
    "call's parameters": {
        "training": "ask minidl.rng.current_block(), which is None in inference mode",
        "mask": "leave it out",
    },
    "Callback": {
        "on_batch_begin": "define on_train_batch_begin",
        "on_batch_end": "define on_train_batch_end",
        "set_model": "define on_train_begin, which finds it in self.model",
        "set_params": "define on_train_begin, which finds them in self.params",
        **dict.fromkeys(
            ("on_test_begin", "on_test_end", "on_test_batch_begin", "on_test_batch_end"),
            "define on_epoch_end, whose logs hold the val_ numbers",
        ),
        **dict.fromkeys(
            (
                *("on_predict_begin", "on_predict_end"),
                *("on_predict_batch_begin", "on_predict_batch_end"),
            ),
            "predict tells no callbacks; work on what it returns",
        ),
    },
    "optimizer's arguments": {
        "amsgrad": "leave it out",
        "betas": "use beta_1 and beta_2",
        "centered": "leave it out",
        "clipnorm": "scale parameter.grad between backward() and update() in a loop of your own",
        "clipvalue": "clip parameter.grad between backward() and update() in a loop of your own",
        "decay": "give a schedule of optimizers.schedules as learning_rate",
        "ema_momentum": "average model.get_weights() in a callback",
        "eps": "use epsilon",
        "global_clipnorm": "scale parameter.grad in a loop of your own",
        "gradient_accumulation_steps": "call backward() several times before update()",
        "lr": "use learning_rate",
        "use_ema": "average model.get_weights() in a callback",
    },
    "learning rate callback": {
        "verbose": "read model.optimizer.learning_rate in a callback of your own",
    },
    "ModelCheckpoint": {
        "initial_value_threshold": "leave it out",
        "save_best_only": "use monitor: the best epoch is kept beside the latest ones",
        "save_freq": "use every_steps or every_epochs",
        "save_weights_only": "use model.save_weights in a callback of your own",
        "verbose": "leave it out",
    },
    "EarlyStopping": {
        "start_from_epoch": "use patience",
        "verbose": "read stopped_epoch afterwards",
    },
    "compile": {
        "jit_compile": "kernels are compiled as they are; leave it out",
        "loss_weights": "a model has one output; weigh in a loss of your own",
        "run_eagerly": "every model runs eagerly; leave it out",
        "steps_per_execution": "leave it out",
        "weighted_metrics": "use metrics",
    },
    "evaluate": {
        "callbacks": "leave it out",
        "steps": "slice x and y",
    },
    "predict": {
        "callbacks": "leave it out",
        "steps": "slice x",
    },
    "fit": {
        "class_weight": "use sample_weight=weights[y]",
        "steps_per_epoch": "an epoch takes every sample once; slice x and y",
        "validation_batch_size": "validation takes batch_size",
        "validation_freq": "validation runs after every epoch",
        "validation_steps": "slice validation_data",
        "workers": "batches are made by the process itself; leave it out",
    },
}


def refuse(place: str, arguments: Mapping[str, object], who: str | None = None) -> None:
    """Raise TypeError for arguments that minidl does not take, with the nearest way.

    None asks for nothing and is let through with a name that others have: it is their default.

    Examples
    --------
    >>> refuse("fit", {"class_weight": {0: 2.0}})
    Traceback (most recent call last):
        ...
    TypeError: fit: class_weight is not in minidl: use sample_weight=weights[y]
    """
    for name, value in arguments.items():
        if value is not None or name not in NEAREST[place]:
            refuse_definition(place, [name], who or place)
            raise TypeError(f"{who or place}: got an unexpected argument {name!r}")


def refuse_definition(place: str, names: Iterable[str], who: str) -> None:
    """Raise TypeError for a name that a class of the user's defines and minidl never uses.

    Examples
    --------
    >>> refuse_definition("call's parameters", ["x", "mask"], who="Net.call")
    Traceback (most recent call last):
        ...
    TypeError: Net.call: mask is not in minidl: leave it out
    """
    for name in names:
        if name in NEAREST[place]:
            raise TypeError(f"{who}: {name} is not in minidl: {NEAREST[place][name]}")


def refuse_name(place: str, name: str) -> None:
    """Raise AttributeError for a name that others have, with the nearest way.

    Examples
    --------
    >>> refuse_name("models", "load_model")
    Traceback (most recent call last):
        ...
    AttributeError: models: load_model is not in minidl: use models.load
    """
    if name in NEAREST.get(place, {}):
        raise AttributeError(f"{place}: {name} is not in minidl: {NEAREST[place][name]}")


class Missing:
    """An attribute that others have, and that would do nothing if it were set: it is refused.

    Parameters
    ----------
    place : str
        Where in `NEAREST` the nearest way is.
    """

    def __init__(self, place: str):
        self._place = place

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        refuse_name(self._place, self._name)

    def __set__(self, owner: object, value: object) -> None:
        refuse_name(self._place, self._name)


def missing_attribute(owner: object, place: str, name: str) -> Any:
    """Raise for an attribute that `owner` has not, as Python does or with the nearest way."""
    if not hasattr(type(owner), name):  # else a property of a subclass has failed
        refuse_name(place, name)
    return object.__getattribute__(owner, name)


def tell_nearest(*modules: ModuleType) -> None:
    """Let modules tell, of a name that they have not, the nearest way or the names there are.

    That is of ``layers.Conv2D``; of ``from minidl.layers import Conv2D`` Python tells by itself.
    """
    for module in modules:
        vars(module)["__getattr__"] = functools.partial(_missing, module)


def _missing(module: ModuleType, name: str) -> NoReturn:
    place = module.__name__.removeprefix("minidl.")
    refuse_name(place, name)
    raise AttributeError(f"{place}: {name} is none of {', '.join(module.__all__)}")
