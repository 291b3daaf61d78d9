"""The model: its matrices, what each is, and which of their elements this process holds."""
