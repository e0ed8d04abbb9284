"""Tensors in, statistics out, and figures from statistics; nothing is trained here."""
