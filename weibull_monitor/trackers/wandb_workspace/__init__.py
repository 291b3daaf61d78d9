"""A saved view for a W&B project: what it shows, and how the library `wandb-workspaces` builds it."""
