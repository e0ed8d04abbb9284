"""Compile the fused kernels for GPUs that need not be there, and tell what they take: registers, spills, shared memory.

    python benchmarks/fused_compile.py [--sizes N ...] [--archs 80 90] [--dtypes fp32 ...] [--output FILE]

A size is the number of channels and of outputs. Numbers are read from the machine code that Triton hands to the driver, with
the tools it brings along; they say nothing of speed. A line of JSON a kernel goes to benchmarks/fused_compile.jsonl in place
of what was there.
"""

import datetime
import itertools
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import tyro
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ditcnn.ops import fused_kernels
from ditcnn.ops.fused import BFLOAT16, CHANNELS, FLOAT16, FLOAT32, Plan

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}  # as Triton's signatures have them
PLANS = [
    (torch.float32, FLOAT32["ieee"]),
    (torch.float32, FLOAT32["tf32x3"]),
    (torch.bfloat16, BFLOAT16),
    (torch.float16, FLOAT16),
]
KERNELS = ("form", "grad_x", "grad_weight")
POSITIONS = 128 * 28 * 28
OUTPUT = Path(__file__).with_suffix(".jsonl")


@dataclass(frozen=True)
class Flags:
    """Compile the fused kernels ahead of time."""

    sizes: tuple[int, ...] = (32, 64, 96, 128, 35)
    archs: tuple[int, ...] = (80, 90)
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    output: Path = OUTPUT


def source(kernel: str, dtype: torch.dtype, plan: Plan, size: int) -> tuple[ASTSource, dict[str, int]]:
    """Return a kernel as it is launched for this size, specialised as Triton does it, and its block sizes."""
    tiles = plan.correlate if kernel == "grad_weight" else plan.contract
    name, constants = NAMES[dtype], {"DOT": fused_kernels.DTYPES[plan.dot], "PRECISION": plan.precision}
    blocks = {"BLOCK_T": tiles.positions, "BLOCK_N": tiles.outputs_for(size)}
    if kernel == "grad_weight":
        function = fused_kernels.correlate_products
        pointers = {"x_ptr": name, "g_ptr": name, "parts_ptr": "fp32"}
        numbers = {"T": POSITIONS, "C": size, "N": size, "SPAN": 32 * tiles.positions}
        blocks |= {"BLOCK_I": tiles.rows, "BLOCK_J": CHANNELS}
    else:
        function = fused_kernels.contract_products
        pointers = {"u_ptr": name, "v_ptr": name, "w_ptr": NAMES[plan.dot], "y_ptr": name}
        numbers = {"T": POSITIONS, "A": size, "B": size, "N": size}
        blocks |= {"BLOCK_A": tiles.rows, "BLOCK_B": CHANNELS}
        constants["TRIANGULAR"] = kernel == "form"
    signature = {k: f"*{v}" for k, v in pointers.items()} | dict.fromkeys(numbers, "i32")
    aligned = [i for i, k in enumerate(signature) if k in pointers or numbers[k] % 16 == 0]
    constants |= blocks
    return (
        ASTSource(
            function,
            signature | dict.fromkeys(constants, "constexpr"),
            constants,
            {(i,): [["tt.divisibility", 16]] for i in aligned},
        ),
        blocks,
    )


def inspect(binary: bytes) -> dict[str, int]:
    """Return what machine code takes. The kernels have no arrays of their own: their stack holds spilled registers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(binary)

        def tool(*words: str) -> str:
            return subprocess.run([TOOLS / words[0], *words[1:], file], capture_output=True, text=True, check=True).stdout

        usage = tool("cuobjdump", "--dump-resource-usage")
        code = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z0-9]+)", tool("nvdisasm", "-c"), re.MULTILINE)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return {
        "registers": int(found[1]),
        "spilled_bytes": int(found[2]),
        "spill_instructions": sum(word in ("STL", "LDL") for word in code),
        "matrix_instructions": sum(word in ("HMMA", "HGMMA") for word in code),
        "instructions": len(code),
    }


def compile_kernel(kernel: str, dtype: torch.dtype, plan: Plan, size: int, arch: int) -> dict[str, Any]:
    """Return the record of one kernel."""
    tiles = plan.correlate if kernel == "grad_weight" else plan.contract
    compilable, blocks = source(kernel, dtype, plan, size)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    compiled = triton.compile(compilable, target=GPUTarget("cuda", arch, 32), options=options)
    return {
        "kernel": kernel,
        "channels": size,
        "outputs": size,
        "dtype": NAMES[dtype],
        "dot": NAMES[plan.dot] if plan.dot != torch.float32 else plan.precision,
        "arch": f"sm_{arch}",
        **blocks,
        **options,
        **inspect(compiled.asm["cubin"]),
        "shared_bytes": compiled.metadata.shared,
    }


def commit() -> str:
    """Return the commit, with a + for changes since of what is compiled."""

    def git(*words: str) -> str:
        here = str(Path(__file__).parent.parent)
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", "src/ditcnn/ops", __file__) else "")


def main(flags: Flags) -> None:
    """Compile, print, record."""
    if fused_kernels.INTERPRETED or not (TOOLS / "ptxas").exists():
        raise SystemExit(f"Compiling needs TRITON_INTERPRET unset and ptxas in {TOOLS}.")
    stamp = {"triton": triton.__version__, "commit": commit(), "date": datetime.date.today().isoformat()}
    columns = {"num_warps": "warps", "registers": "registers", "spilled_bytes": "spilled B", "shared_bytes": "shared B"}
    table = Table("kernel", "C = O", "dtype", "dot", "arch", "blocks", *columns.values())
    lines = []
    plans = [(dtype, plan) for dtype, plan in PLANS if NAMES[dtype] in flags.dtypes]
    for size, (dtype, plan), kernel, arch in itertools.product(flags.sizes, plans, KERNELS, flags.archs):
        r = compile_kernel(kernel, dtype, plan, size, arch)
        blocks = "x".join(str(v) for k, v in r.items() if k.startswith("BLOCK_"))
        table.add_row(kernel, str(size), r["dtype"], r["dot"], r["arch"], blocks, *(str(r[c]) for c in columns))
        lines.append(json.dumps({"benchmark": "fused_compile"} | r | stamp) + "\n")
    Console(width=120).print(table)
    flags.output.write_text("".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Flags))
