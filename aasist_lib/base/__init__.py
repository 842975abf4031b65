"""Foundation of all rooms: errors, paths, progress, processes, files, provenance."""
