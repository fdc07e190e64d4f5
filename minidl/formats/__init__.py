"""File formats: checkpoints, and weights and networks for other frameworks.

To add a format, write a module with the functions of `minidl.storage.registry.Format` and add a row
to the table below.
"""

from minidl.formats import checkpoint, keras_weights, onnx_export, torch_weights
from minidl.storage.registry import Format, register

of_models = Format(checkpoint.save, checkpoint.load, checkpoint.check, checkpoint.matching)
for kind, ending, entry in (
    ("model", ".safetensors", of_models),
    ("weights", ".weights.h5", Format(keras_weights.save, keras_weights.load)),
    ("weights", ".safetensors", Format(torch_weights.save, torch_weights.load)),
    ("network", ".onnx", Format(onnx_export.save)),
):
    register(kind, ending, entry)
