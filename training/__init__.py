"""Data, losses and the recipes of the papers, with one loop behind all recipes."""
