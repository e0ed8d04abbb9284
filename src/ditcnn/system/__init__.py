"""The ground floor: errors, caches, locks, whole files, signals, devices, processes, display; no networks."""
