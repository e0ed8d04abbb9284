"""What runs an experiment: its cells, the store of trained runs, its records. It knows no figure and no table."""
