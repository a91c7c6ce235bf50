"""The ground that everything stands on: errors, files, limits of the machine, progress, frame sizes, the version."""
