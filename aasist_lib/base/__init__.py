"""What everything stands on: errors, paths, progress, processes, files, provenance."""
