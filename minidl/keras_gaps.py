"""What of Keras is not in minidl, and the nearest way there is."""

from collections.abc import Mapping

NEAREST: dict[str, dict[str, str]] = {
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
    "layer": {
        "batch_size": "give it to fit",
        "activity_regularizer": "add a term to a loss of your own",
        "bias_constraint": "set layer.bias.constraint after building",
        "bias_regularizer": "use the optimizer's weight_decay",
        "dtype": "give the dtype to the model",
        "input_dim": "use input_shape=(n,)",
        "kernel_regularizer": "use the optimizer's weight_decay",
        "noise_shape": "every element is decided by itself",
        "trainable": "set requires_grad of the layer's parameters()",
        "weights": "use model.set_weights",
    },
    "call": {
        "training": "use `with minidl.training():` for training mode",
        "mask": "leave it out",
    },
    "optimizer": {
        "amsgrad": "leave it out",
        "centered": "leave it out",
        "clipnorm": "scale parameter.grad between backward() and update() in a loop of your own",
        "clipvalue": "clip parameter.grad between backward() and update() in a loop of your own",
        "ema_momentum": "average model.get_weights() in a callback",
        "global_clipnorm": "scale parameter.grad in a loop of your own",
        "gradient_accumulation_steps": "call backward() several times before update()",
        "use_ema": "average model.get_weights() in a callback",
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

    None asks for nothing and is let through: it is the default of most of them.

    Examples
    --------
    >>> refuse("fit", {"class_weight": {0: 2.0}})
    Traceback (most recent call last):
        ...
    TypeError: fit: class_weight is not in minidl: use sample_weight=weights[y]
    """
    for name, value in arguments.items():
        if value is None:
            continue
        if name in NEAREST[place]:
            raise TypeError(f"{who or place}: {name} is not in minidl: {NEAREST[place][name]}")
        raise TypeError(f"{who or place}: got an unexpected argument {name!r}")
