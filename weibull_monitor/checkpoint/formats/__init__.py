"""The formats of checkpoints: which tensors a file holds, and where. Nothing in a file is executed."""
