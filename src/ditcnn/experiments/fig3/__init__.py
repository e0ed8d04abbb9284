"""Figure 3: the biological reading of the quadratic neuron, a schematic."""
