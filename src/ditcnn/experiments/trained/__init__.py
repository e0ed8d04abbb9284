"""Comparisons of trained networks: each lists its arms, pairs and columns, and says what came out."""
