"""A run in the terminal while it trains: follow its history, gather its present state, draw it."""
