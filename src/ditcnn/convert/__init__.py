"""Put the term into an existing model, take it out, see where it can go; read the checkpoints of published code."""

from ditcnn.convert.checkpoint import differences, read_checkpoint, swaps_height_and_width, with_fresh_terms, with_our_keys
from ditcnn.convert.insert import Where, add_quadratic, quadratic_terms, remove_quadratic
from ditcnn.convert.places import Place, candidate_places

__all__ = [
    "Place",
    "Where",
    "add_quadratic",
    "candidate_places",
    "differences",
    "quadratic_terms",
    "read_checkpoint",
    "remove_quadratic",
    "swaps_height_and_width",
    "with_fresh_terms",
    "with_our_keys",
]
