"""Write the tables of README.md and docs/speed.md from the records: python benchmarks/tables.py

Each table stands between <!-- table NAME --> and <!-- end --> and is made from a processor's last record of each case.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
AVX2, AVX512 = "AMD EPYC", "Intel(R) Xeon(R) Processor"  # as the records name them
DOCUMENTS = [HERE.parent / "README.md", HERE.parent / "docs" / "speed.md"]


def records(name: str, *keys: str, processor: str | None = None) -> list[dict[str, Any]]:
    """Return the last record of each case, in the order of the first; of one processor, where it is named.

    Records that name no precision are of float32.
    """
    lines = [{"precision": "fp32"} | json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]
    own = [line for line in lines if processor is None or line["environment"]["processor"] == processor]
    return list({tuple(line[key] for key in keys): line for line in own}.values())


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def op_table(processor: str, precision: str = "fp32") -> str:
    """Times, ratios and memory of the form alone."""
    rows = []
    cases = records("op", "channels", "outputs", "positions", "precision", processor=processor)
    for record in (one for one in cases if one["precision"] == precision):
        case = f"C = {record['channels']}, O = {record['outputs']}, {record['positions']:,} positions"
        base, bound = record["time_ms"]["published"], record["bound_ms"]
        for name, time_ms in sorted(record["time_ms"].items(), key=lambda item: item[1]):
            if name != "auto":  # one of the others
                peak = record["peak_mib"][name]
                rows.append([case, name, f"{time_ms:.1f}", f"{time_ms / base:.2f}", f"{time_ms / bound:.2f}", f"{peak:.0f}"])
                case = ""
        for name, time_ms in record["left_out_estimate_ms"].items():
            ratios = [f"{time_ms / base:.1f}", f"{time_ms / bound:.0f}"]
            rows.append(["", name, f"about {time_ms:,.0f}", *ratios, "not run whole"])
        rows.append(["", "*the bound*", f"{bound:.1f}", f"{bound / base:.2f}", "1.00", ""])
    return markdown(["", "form", "ms", "to published", "to the bound", "peak MiB"], rows)


def model_table(processor: str) -> str:
    """Times and memory of networks against their plain twins."""
    rows = []
    for record in records("models", "model", "precision", "mode", processor=processor):
        times, peaks = record["time_ms"], record["peak_mib"]
        what = f"`{record['model']}`, batch {record['batch_size']}, {record['image_size']}x{record['image_size']}, "
        what += f"{record['mode']}, {record['precision']}"
        ratios = [f"{times[form] / times['plain']:.2f}" for form in ("ours", "published")]
        memory = [f"{peaks[form] - peaks['plain']:+.0f}" for form in ("ours", "published")]
        rows.append([what, f"{times['plain']:.0f}", *ratios, *memory])
    return markdown(
        [
            "",
            "plain twin, ms",
            "ours, times plain",
            "published form, times plain",
            "ours, extra MiB",
            "published form, extra MiB",
        ],
        rows,
    )


def growth_table() -> str:
    """Where ours is fastest, slowest and typical against the published form."""
    cases = records("growth", "channels", "outputs", "positions")
    pairs = [(r["time_ms"]["auto"] / r["time_ms"]["published"], r) for r in cases]
    ratios = sorted(pairs, key=lambda pair: pair[0])
    chosen = [*ratios[:2], ratios[len(ratios) // 2], *ratios[-5:]] if len(ratios) > 8 else ratios
    rows = [
        [str(r["channels"]), str(r["outputs"]), f"{r['positions']:,}", f"{r['time_ms']['published']:.3f}", f"{ratio:.2f}"]
        for ratio, r in chosen
    ]
    slower = sum(ratio > 1.1 for ratio, _ in ratios)
    note = f"\n\n{len(ratios)} cases; slower than the published form by more than 10% in {slower}."
    return markdown(["C", "O", "positions", "published, ms", "ours / published"], rows) + note


def fused_table() -> str:
    """Registers and spills of the Triton kernels at C = O = 96."""
    cases = records("fused_compile", "channels", "outputs", "dtype", "dot", "kernel", "arch")
    chosen = {(r["dtype"], r["dot"], r["kernel"], r["arch"]): r for r in cases if r["channels"] == r["outputs"] == 96}
    rows = []
    for dtype, dot, kernel in dict.fromkeys(key[:3] for key in chosen):
        cells = []
        for arch in ("sm_80", "sm_90"):
            r = chosen[dtype, dot, kernel, arch]
            cells += [str(r["registers"]), str(r["spilled_bytes"]), f"{r['shared_bytes'] / 1024:.0f}"]
        rows.append([dtype, dot, kernel, *cells])
    units = ["registers", "spilled bytes", "shared KiB"]
    return markdown(["dtype", "dot", "kernel", *[f"{arch} {unit}" for arch in ("sm_80", "sm_90") for unit in units]], rows)


def main() -> None:
    """Replace the tables."""
    tables = {
        "op": lambda: op_table(AVX2),
        "op-avx512": lambda: op_table(AVX512),
        "op-bf16": lambda: op_table(AVX512, "bf16"),
        "models": lambda: model_table(AVX2),
        "models-avx512": lambda: model_table(AVX512),
        "growth": growth_table,
        "fused": fused_table,
    }
    for document in DOCUMENTS:
        text = document.read_text()
        for name, table in tables.items():
            begin, end = f"<!-- table {name} -->", "<!-- end -->"
            if begin in text:
                text = re.sub(f"{begin}.*?{end}", f"{begin}\n{table()}\n{end}".replace("\\", r"\\"), text, flags=re.S)
        document.write_text(text)


if __name__ == "__main__":
    main()
