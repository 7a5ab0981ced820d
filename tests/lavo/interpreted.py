"""Runs Triton under its interpreter, on a CPU; must be imported before triton.

Three faults of the interpreter of triton 3.6 are mended here, so that it computes what a GPU would.
"""

import os
import sys

assert "triton" not in sys.modules or os.environ.get("TRITON_INTERPRET") == "1", "triton was imported for a GPU"
os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

patch_tensor, convert, create_dot = (
    interpreter._patch_lang_tensor,
    interpreter._convert_float,
    interpreter.InterpreterBuilder.create_dot,
)


def patch_tensor_for_numpy_2_4(tensor, scope):
    """numpy 2.4 makes no scalar of an array of one element, which loops over kernel arguments need: triton#9171."""
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


def convert_to_nearest(x, source, target, rounding_mode):
    """float32 to bfloat16 to the nearest, ties to even, as the hardware does; the interpreter cuts the bits off."""
    if source == tl.float32 and target == tl.bfloat16:
        bits = np.ascontiguousarray(x).view(np.uint32)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(x), np.uint16(0x7FC0), nearest)
    return convert(x, source, target, rounding_mode)


def dot_of_values(self, a, b, d, input_precision, max_num_imprecise_acc):
    """bfloat16 is held as its bits, and the interpreter multiplies these as if they were integers."""
    a, b = (
        interpreter.TensorHandle(x.data.astype(np.uint32) << 16, tl.float32) if x.dtype.scalar == tl.bfloat16 else x
        for x in (a, b)
    )
    for x in (a, b):
        if x.data.dtype == np.uint32:
            x.data = x.data.view(np.float32)
    return create_dot(self, a, b, d, input_precision, max_num_imprecise_acc)


interpreter._patch_lang_tensor = patch_tensor_for_numpy_2_4
interpreter._convert_float = convert_to_nearest
interpreter.InterpreterBuilder.create_dot = dot_of_values
