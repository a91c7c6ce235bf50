"""The files around an engine: pictures and video in and out."""
