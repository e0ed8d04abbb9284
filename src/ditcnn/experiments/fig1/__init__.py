"""Figure 1: one quadratic neuron on two normal classes."""
