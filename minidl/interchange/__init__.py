"""Files of other frameworks: weights from and for Keras and PyTorch, networks for ONNX."""
