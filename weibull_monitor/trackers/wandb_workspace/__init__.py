"""A saved view for a W&B project: its sections and panels, and the library `wandb-workspaces` that builds it."""
