"""Files: atomic writes, folders and locks, tensor files, and the registry of formats."""
