"""Training: the state, the step, the loop of `fit`, and how layers are fused for it."""
