"""The quality of what a network or an engine cleans: figures against the truth, against papers, over video."""
