"""What everything may use: errors, files, limits of the machine, progress, frame sizes, the version."""
