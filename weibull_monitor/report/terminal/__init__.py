"""A run while it runs, in the terminal: follow its history, say what it shows now, draw that."""
