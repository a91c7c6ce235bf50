"""Training: data and rain synthesis, losses, and the recipes that make weights."""
