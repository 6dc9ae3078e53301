"""A training step at full size without a GPU and without memory for it: fake tensors under a fake process group."""
