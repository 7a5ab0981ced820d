"""Compiles the kernels for an H100 (sm_90), which needs no GPU, and prints the registers and shared memory of each.

    python tests/lavo/compile_kernels.py [--every 1] [--first 0] [--warps 4] [--kernel NAME]

It takes every ``every``-th of all variants from ``first`` on.  The compiler refuses types and shapes that the interpreter
accepts.
Registers and spills are those of ptxas, for the numbers of warps given; shared memory is the compiler's.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from lavo import kernels, kernels_backward, one_pass
from lavo.launch import OUTPUTS

H100 = GPUTarget("cuda", 90, 32)
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
FIXED = {"lengths_ptr": "*i32", "flags_ptr": "*i32"}
OF_INPUTS = {
    "keys_ptr",
    "values_ptr",
    "new_keys_ptr",
    "new_values_ptr",
    "q_ptr",
    "k_ptr",
    "v_ptr",
    "out_ptr",
    "grad_ptr",
    "dq_ptr",
    "dk_ptr",
    "dv_ptr",
    "de_ptr",
    "memory_dq_ptr",
}
SHARED_BYTES = 227 * 1024  # the most that a block may have on an H100


def variants() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every kernel with the constants of its compilation and the type of its inputs."""
    for reverse in (False, True):
        yield kernels.scan_kernel, {"dtype": "float32", "REVERSE": reverse, "SPAN": 128, "COLUMNS": 16}
    sizes = [(64, 64, 1), (64, 64, 4), (128, 32, 2), (32, 64, 2), (16, 16, 1)]  # D, BLOCK, TILES
    for dtype, (D, block, tiles), causal in itertools.product(TYPES, sizes, (True, False)):
        if dtype == "float32" and D * block > 2048:
            block, tiles = block // 2, tiles * 2
        shape = {"dtype": dtype, "BLOCK": block, "TILES": tiles, "D": D, "CAUSAL": causal, "WINDOWS": True}
        shape |= {"BIASED": True, "RAGGED": not causal, "DOT": "tf32x3", "CROSS": False}
        yield kernels.sums_kernel, shape
        for output, identity in itertools.product(OUTPUTS, (True, False)):
            memory = {"OUTPUT": OUTPUTS[output], "IDENTITY": identity, "R": D if identity else max(16, D // 2)}
            yield kernels.output_kernel, shape | memory
            if causal:
                yield one_pass.one_pass_kernel, shape | memory | {"GROUP": 32}
                yield kernels.decode_kernel, shape | memory
            yield kernels_backward.memory_backward_kernel, shape | memory | {"BASIS_GRADIENT": not identity}
        for output in ("joint", "sum"):
            if tiles > 1:
                yield kernels_backward.queries_backward_kernel, shape | {"OUTPUT": OUTPUTS[output]}
            yield kernels_backward.keys_backward_kernel, shape | {"OUTPUT": OUTPUTS[output], "BIAS_GRADIENT": True}
    for dtype, causal, cross in itertools.product(TYPES, (True, False), (True, False)):
        if causal and cross:
            continue
        bare = {
            "dtype": dtype,
            "BLOCK": 64,
            "TILES": 1,
            "D": 64,
            "R": 64,
            "CAUSAL": causal,
            "WINDOWS": False,
            "DOT": "tf32x3",
        }
        bare |= {"BIASED": False, "RAGGED": False, "CROSS": cross, "OUTPUT": OUTPUTS["memory"], "IDENTITY": False}
        if not cross:
            yield kernels.sums_kernel, bare
        yield kernels.output_kernel, bare
        yield kernels_backward.memory_backward_kernel, bare | {"BASIS_GRADIENT": True}


def compile_variant(kernel: Any, constants: dict[str, Any], warps: int) -> Any:
    element = TYPES[constants["dtype"]]
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            of_inputs = name in OF_INPUTS and kernel is not kernels.scan_kernel
            of_state = kernel is kernels.decode_kernel and name in ("sums_ptr", "new_sums_ptr")
            signature[name] = FIXED.get(name) or ("*fp64" if of_state else f"*{element}" if of_inputs else "*fp32")
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
    # As at a launch: addresses and strides are multiples of 16, which decides how wide a load is.
    aligned = [
        i for i, n in enumerate(kernel.arg_names) if n.endswith(("_ptr", "_batch", "_head", "_token")) or n == "d"
    ]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=H100, options={"num_warps": warps, "num_stages": 2})


def registers(compiled: Any) -> tuple[int, int]:
    """Registers a thread, and bytes spilled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(compiled.asm["ptx"])
        command = [get_ptxas(90).path, "-v", "--gpu-name=sm_90a", str(path), "-o", str(path.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", said)
    return int(used[1]) if used else 0, sum(int(x) for x in re.findall(r"(\d+) bytes spill stores", said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--warps", type=int, default=4)
    parser.add_argument("--kernel", default="")
    chosen = parser.parse_args()
    wanted = [x for x in variants() if x[0].__name__.startswith(chosen.kernel)][chosen.first :: chosen.every]
    for kernel, constants in wanted:
        compiled = compile_variant(kernel, constants, chosen.warps)
        used, spilled = registers(compiled)
        shown = " ".join(f"{name}={value}" for name, value in constants.items())
        print(
            f"{kernel.__name__}: {used} registers, {spilled} spilled, {compiled.metadata.shared} shared; {shown}",
            flush=True,
        )
        assert compiled.metadata.shared <= SHARED_BYTES, "more shared memory than an H100 has"
    print(f"{len(wanted)} variants compiled")


if __name__ == "__main__":
    main()
