"""Home-made models whose names lie, with what each matrix is."""
