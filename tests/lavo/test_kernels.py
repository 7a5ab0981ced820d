"""The Triton kernels, under Triton's interpreter, against the definition in float64; and their compilation for sm_90.

Triton decides at its import whether it interprets, so the comparisons run in a process of their own: this file calls
itself.  Lengths are small, because the interpreter takes some milliseconds for each tile.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As a share of the root mean square of the definition's result, in float64 from the rounded inputs.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}

# Windows of one tile (up to 64 tokens), of several, and with a last tile beyond the window; partial last windows; ranks and
# head_dims that are no powers of two; one token; several sequences.
SHAPES = [
    {"n": 40, "window": 16, "batch": 2, "heads": 2},
    {"n": 1, "window": 64},
    {"n": 65, "window": 64, "d": 32, "rank": 7},
    {"n": 37, "window": 12, "d": 24, "rank": 17, "heads": 2},
    {"n": 140, "window": 128, "d": 32, "rank": 32},
    {"n": 90, "window": 83, "d": 40, "rank": 1},
    {"n": 60, "window": 256, "d": 128, "rank": 40},
]
CASES = [
    *({"causal": causal, "output": "joint"} | shape for shape in SHAPES for causal in (True, False)),
    *(
        {"causal": causal, "n": 37, "window": 16, "output": output, "axes": axes}
        for causal in (True, False)
        for output in ("sum", "memory", "joint")
        for axes in (True, False)
        if (output, axes) != ("joint", False)
    ),
    *({"causal": causal, "n": 70, "window": 16, "dissect": False} for causal in (True, False)),
    *({"causal": causal, "n": 37, "window": 16, "bias": False} for causal in (True, False)),
    *({"causal": causal, "n": 33, "window": 8, "batch": 4, "padded": True} for causal in (True, False)),
    {"causal": False, "n": 90, "window": 70, "batch": 4, "padded": True, "output": "sum"},
    *({"cross": True, "n": 70, "d": d, "rank": rank} for d, rank in ((16, 16), (40, 11))),
    {"cross": True, "n": 33, "batch": 4, "padded": True, "axes": True},
    {"causal": True, "n": 37, "window": 16, "layout": "tokens first"},
    {"causal": False, "n": 37, "window": 16, "layout": "mixed"},
    *(
        {"causal": causal, "output": "joint", "dtype": dtype} | shape
        for causal in (True, False)
        for dtype in ("bfloat16", "float16")
        for shape in ({"n": 150, "window": 64, "d": 32, "rank": 20}, {"n": 100, "window": 90, "axes": True})
    ),
    {"cross": True, "n": 70, "dtype": "bfloat16"},
]


def name_of(case):
    return " ".join(f"{key}={value}" for key, value in case.items())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Case -> quantity -> error, from a process with the interpreter."""
    import json

    path = tmp_path_factory.mktemp("kernels") / "errors.json"
    run_alone([__file__, str(path)])
    return json.loads(path.read_text())


def run_alone(arguments, **environment):
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment
    ended = subprocess.run(
        [sys.executable, *arguments], check=False, env=environment, cwd=root, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_kernels_give_what_the_definition_says(measured, case):
    errors = measured[name_of(case)]
    assert errors.pop("kernel") == "triton"
    assert set(errors) >= ({"out", "q", "v"} if case.get("cross") else {"out", "q", "k", "v"})
    limit = TOLERANCE[case.get("dtype", "float32")]
    assert {quantity: error for quantity, error in errors.items() if not error <= limit} == {}


@pytest.mark.slow
def test_other_properties_hold(measured):
    """The functions of PROPERTIES, at the end of this file."""
    assert measured["properties"] == dict.fromkeys(measured["properties"], True)
    assert len(measured["properties"]) >= 10


@pytest.mark.slow
def test_some_variants_compile_for_an_h100():
    said = run_alone(
        [str(Path(__file__).with_name("compile_kernels.py")), "--first", "3", "--every", "37"], TRITON_INTERPRET="0"
    )
    assert "variants compiled" in said


# The rest of the file runs in the process with the interpreter.


def main(path):
    import json

    import interpreted  # noqa: F401  before triton
    import torch

    torch.set_num_threads(1)
    found = {name_of(case): errors_of(case) for case in CASES}
    found["properties"] = {check.__name__: bool(check()) for check in PROPERTIES}
    Path(path).write_text(json.dumps(found))


def tensors_of(case):
    import torch
    from loop import example

    sizes = {key: case[key] for key in ("batch", "heads", "n", "d", "rank", "window") if key in case}
    q, k, v, basis, bias = example(**{"heads": 1, "d": 16, "rank": 16} | sizes, causal=case.get("causal", False))
    mask = None
    if case.get("padded"):
        t = torch.arange(case["n"])
        mask = torch.stack([t >= 20, t < 9, t % 3 == 1, t >= 0])  # right, left, inside, all
    return [q, k, v, None if case.get("axes") else basis, bias if case.get("bias", True) else None], mask


def laid_out(x, layout, number):
    if layout == "tokens first" or (layout == "mixed" and number == 0):
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.repeat_interleave(2, 3)[..., ::2] if layout == "mixed" and number == 2 else x


def errors_of(case):
    import torch

    from lavo import LAVOAttention, lavo_attention, lavo_cross_attention

    dtype = getattr(torch, case.get("dtype", "float32"))
    tensors, mask = tensors_of(case)
    options = {key: case[key] for key in ("window", "causal", "output", "dissect") if key in case}
    rounded = [x if x is None else x.to(dtype if i < 3 else torch.float32) for i, x in enumerate(tensors)]
    upstream = torch.randn(rounded[0].shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    results = []
    for backend in ("triton", "reference"):
        leaves = [
            x if x is None else (x if backend == "triton" else x.double()).clone().requires_grad_() for x in rounded
        ]
        q, k, v = (laid_out(x, case.get("layout"), i) for i, x in enumerate(leaves[:3]))
        basis, bias = leaves[3:]
        if case.get("cross"):
            leaves[1] = leaves[4] = None
            out = lavo_cross_attention(q[:, :, :40], v, basis, key_padding_mask=mask, backend=backend)
        else:
            out = lavo_attention(q, k, v, basis, bias=bias, key_padding_mask=mask, backend=backend, **options)
        wanted = {name: x for name, x in zip("qkvBP", leaves, strict=True) if x is not None}
        grads = torch.autograd.grad(
            out, list(wanted.values()), upstream[:, :, : out.shape[2]].to(out.dtype), allow_unused=True
        )
        results.append({"out": out} | {n: g for n, g in zip(wanted, grads, strict=True) if g is not None})
    got, want = results
    want = {name: want[name] if name in want else torch.zeros_like(x).double() for name, x in got.items()}
    errors = {name: relative(x, want[name]) for name, x in got.items()}
    errors |= {f"dtype of {name}": 1.0 for name in "qkv" if name in got and got[name].dtype != dtype}
    layer = LAVOAttention(pattern="causal_self", num_heads=2, head_dim=16, backend="triton")
    layer(*torch.randn(3, 1, 2, 5, 16, dtype=dtype))
    return errors | {"kernel": layer.kernel}


def relative(got, want):
    """Root mean square of the difference over that of ``want``; where ``want`` is zero, of the difference alone."""
    norm = want.square().mean().sqrt().item()
    return (got.double() - want).square().mean().sqrt().item() / (norm if norm > 1e-6 else 1.0)


def small(**changes):
    tensors, _ = tensors_of({"n": 40, "window": 8, "heads": 2, "causal": True} | changes)
    return [x.float().contiguous() for x in tensors]


def the_future_does_not_move_the_past_at_all():
    import torch

    from lavo import lavo_attention

    q, k, v, basis, bias = small()
    before = lavo_attention(q, k, v, basis, window=8, bias=bias, causal=True, backend="triton")
    for t in (0, 7, 8, 30):
        changed = [torch.cat([x[:, :, : t + 1], x[:, :, t + 1 :] * 1e4 + 7], 2) for x in (q, k, v)]
        after = lavo_attention(*changed, basis, window=8, bias=bias, causal=True, backend="triton")
        if not torch.equal(after[:, :, : t + 1], before[:, :, : t + 1]):
            return False
    return True


def two_runs_give_the_same_bits():
    import torch

    from lavo import lavo_attention

    runs = []
    for _ in range(2):
        tensors = [x.clone().requires_grad_() for x in small()]
        out = lavo_attention(*tensors[:4], window=8, bias=tensors[4], causal=True, backend="triton")
        runs.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    return all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def programs_that_share_the_work_change_nothing():
    """The work of a sequence over one program, and over one a tile: sums of gradients in another order."""
    import torch

    from lavo import launch, lavo_attention

    runs, before = [], launch.PROGRAMS
    for launch.PROGRAMS in (1, 4096):
        tensors = [x.clone().requires_grad_() for x in small(n=70)]
        out = lavo_attention(*tensors[:4], window=8, bias=tensors[4], causal=True, backend="triton")
        runs.append(torch.autograd.grad(out.square().sum(), tensors))
    launch.PROGRAMS = before
    return all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(*runs, strict=True))


def large_scores_do_not_overflow():
    import torch

    from lavo import lavo_attention

    q, k, v, basis, bias = (x.requires_grad_() for x in small())
    out = lavo_attention(q * 1e3, k * 1e3, v, basis, window=8, bias=bias, causal=True, backend="triton")
    return all(torch.isfinite(x).all() for x in (out, *torch.autograd.grad(out.sum(), (q, k, v, basis, bias))))


def inputs_without_a_kernel_go_to_torch():
    import torch

    from lavo.functional import resolve_backend

    q = torch.randn(1, 1, 4, 16)
    return (
        resolve_backend("triton", q, 256) == "triton"
        and resolve_backend("triton", q, 257) == "torch"
        and resolve_backend("triton", q.double(), 64) == "torch"
        and resolve_backend("triton", torch.randn(1, 1, 4, 129), 64) == "torch"
        and resolve_backend("triton", torch.randn(1, 1, 4, 128), 64, 128) == "torch"
        and resolve_backend("auto", q, 64) == "torch"  # the interpreter runs only where it is asked for
    )


def the_layer_records_what_ran():
    import torch

    from lavo import LAVOAttention

    layer = LAVOAttention(pattern="causal_self", num_heads=2, head_dim=16, backend="triton", window=300)
    first = layer.kernel
    layer(*torch.randn(3, 1, 2, 5, 16))
    return (first, layer.kernel) == ("triton", "torch")


def an_empty_sequence_gives_an_empty_output():
    from lavo import lavo_attention

    q, k, v, basis, bias = (x[:, :, :0].requires_grad_() if i < 3 else x for i, x in enumerate(small()))
    return lavo_attention(q, k, v, basis, window=8, bias=bias, causal=True, backend="triton").shape == q.shape


def only_inputs_and_sums_are_kept_for_the_backward_pass():
    from lavo import lavo_attention

    tensors = [x.requires_grad_() for x in small(n=160)]
    out = lavo_attention(*tensors[:4], window=8, bias=tensors[4], causal=True, backend="triton")
    own = {x.data_ptr() for x in tensors}
    kept = [x for x in out.grad_fn.saved_tensors if x is not None and x.data_ptr() not in own]
    return sum(x.numel() for x in kept) <= tensors[0].numel() // 8


def the_one_pass_form_gives_the_same():
    """Groups have 2 tiles, so that there are several groups."""
    import torch

    from lavo import fused, one_pass

    before, one_pass.GROUP = one_pass.GROUP, 2
    same = []
    for window, output, axes in ((8, "joint", False), (24, "sum", True), (50, "memory", False)):
        runs = []
        for in_one_pass in (False, True):
            q, k, v, basis, bias = (x.clone().requires_grad_() for x in small(n=70, window=window))
            options = {"window": window, "bias": bias, "causal": True, "output": output, "dissect": True}
            B = None if axes else basis
            out = fused.self_attention(q, k, v, B, lengths=None, one_pass=in_one_pass, **options)
            runs.append([out, *torch.autograd.grad(out.square().sum(), [q, k, v, bias])])
        same += [torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(*runs, strict=True)]
    one_pass.GROUP = before
    return all(same)


def streaming_is_the_parallel_form():
    """Many tokens first, then token by token over the ends of windows; states stay valid."""
    import copy

    import torch

    from lavo import LAVOAttention

    same = []
    for options in (
        {},
        {"output": "joint", "basis": "learned"},
        {"output": "memory", "position_bias": False, "rank": 5},
    ):
        layer = LAVOAttention(pattern="causal_self", num_heads=2, head_dim=24, window=6, backend="triton", **options)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
        q, k, v = torch.randn(3, 2, 2, 15, 24, generator=torch.Generator().manual_seed(2))
        for start in (0, 8):
            state, parts = layer.init_state(2, dtype=q.dtype), []
            if start:
                out, state = layer.extend(q[:, :, :start], k[:, :, :start], v[:, :, :start], state)
                parts.append(out)
                same.append(layer.kernel == "triton")
            first = state
            for t in range(start, 15):
                out, state = layer.extend(*(x[:, :, t : t + 1] for x in (q, k, v)), state)
                parts.append(out)
                same.append(layer.kernel == "triton")
            again, _ = layer.extend(*(x[:, :, start : start + 1] for x in (q, k, v)), first)
            same.append(torch.equal(again, parts[1 if start else 0]))
            want = copy.deepcopy(layer).double().definition(q.double(), k.double(), v.double())
            same.append(relative(torch.cat(parts, 2), want) < 1e-5)
    return all(same)


PROPERTIES = [
    the_one_pass_form_gives_the_same,
    streaming_is_the_parallel_form,
    the_future_does_not_move_the_past_at_all,
    two_runs_give_the_same_bits,
    programs_that_share_the_work_change_nothing,
    large_scores_do_not_overflow,
    inputs_without_a_kernel_go_to_torch,
    the_layer_records_what_ran,
    an_empty_sequence_gives_an_empty_output,
    only_inputs_and_sums_are_kept_for_the_backward_pass,
]

if __name__ == "__main__":
    main(sys.argv[1])
