"""Figure 2: digits from few images."""
