"""What ``ditcnn bench`` measures, and the forms it compares with."""

from ditcnn.bench.models import MODEL_CASES, bench_models
from ditcnn.bench.op import GROWTH_CASES, OP_CASES, bench_growth, bench_op
from ditcnn.bench.plot import draw_growth

__all__ = ["GROWTH_CASES", "MODEL_CASES", "OP_CASES", "bench_growth", "bench_models", "bench_op", "draw_growth"]
