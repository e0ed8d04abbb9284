"""Figure 6: eigenvectors of covariances beside those of A."""
