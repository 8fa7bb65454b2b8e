"""The part of the study's page that no result changes: the model, its constants, its sources.

Pure; the tables of `networks` and the constants of `roofline` flow in, Markdown flows out.
"""

from __future__ import annotations

from statistics import median

from benchmarks.study import roofline
from benchmarks.study.markdown import table
from benchmarks.study.networks import ACCELERATORS, NETWORKS, REFERENCE
from benchmarks.study.roofline import reference_ratio

__all__ = ["model_section", "repeat_section", "trust_section"]


def model_section() -> str:
    """What an instance costs, and what a placement is worth."""
    return f"""## The model

**The cost of an instance is estimated** by a roofline model over published figures. A batch of *b*
rows takes

    t(b) = launch x layers + max(2 x MACs x b / (peak x e(b)), bytes(b) / bandwidth)
    e(b) = best x w / (w + ramp)         w = 2 x MACs x b / layers / peak
    bytes(b) = element x (parameters + passes x activations x b)
    g(b) = workspace + element x (copies x parameters + live x activations x b)

seconds, and *g(b)* bytes of memory. The kernels of each layer have to be launched; then either
arithmetic or memory bandwidth is the bottleneck. Small batches don't fill a GPU: *e(b)*, the share
of the peak that is reached, grows with the arithmetic per layer. So latency grows with the batch,
while rows/s grow and saturate.

{_constants()}

Batch sizes are {", ".join(map(str, roofline.BATCH_SIZES))}. Each GPU reserves
{roofline.CONTEXT_BYTES >> 20} MiB for its context; a GB on a data sheet is taken as 10^9 bytes.

**The throughput of a placement** is the value of a linear program. Instances on a device share its
time, a member's rows are distributed over its instances in the best ratio, and the ensemble is as
fast as its slowest member:

    maximise T   such that   sum over d of r[d, m] >= T           for every member m
                             sum over m of r[d, m] t(b) / b <= 1  for every device d

with r[d, m] the rows/s of member m on device d. It neglects the interference of instances on one
GPU, the transfer of inputs, and the server itself."""


def _constants() -> str:
    rows = [
        ("launch", f"{roofline.LAUNCH_S * 1e6:g} µs", "launching the kernels of one layer"),
        ("ramp", f"{roofline.RAMP_S * 1e6:g} µs", "a layer with this much ideal arithmetic "
         "reaches half of the best share"),
        ("best", f"{roofline.BEST_EFFICIENCY:g}", "share of the peak that big layers reach"),
        ("passes", f"{roofline.PASSES:g}", "how often an activation is read or written, without "
         "fusion"),
        ("copies", f"{roofline.WEIGHT_COPIES:g}", "weights, partly also in the kernels' layout"),
        ("live", f"{roofline.LIVE_SHARE:g}", "share of the activations that is in memory at once"),
        ("workspace", f"{roofline.WORKSPACE_BYTES >> 20} MiB", "scratch space of an instance"),
    ]  # fmt: skip
    return table(("constant", "value", "meaning"), rows)


def trust_section() -> str:
    """The estimates beside what others measured, and all sources."""
    ratios = sorted(ratio for one in NETWORKS.values() if (ratio := reference_ratio(one)))
    networks = [
        (
            one.title,
            f"{one.image}",
            f"{one.parameters / 1e6:.1f}",
            f"{one.macs / 1e9:.2f}",
            f"{one.activations / 1e6:.1f}"
            + (f" + {one.concatenated / 1e6:.1f}" if one.concatenated else ""),
            f"{one.layers}",
            f"{one.published_rows_per_s:,.0f}" if one.published_rows_per_s else "-",
            f"{ratio:.2f}" if (ratio := reference_ratio(one)) else "-",
        )
        for one in NETWORKS.values()
    ]
    devices = [
        (
            one.title,
            f"{one.flops / 1e12:g}",
            one.arithmetic,
            f"{one.bytes_per_s / 1e9:g}",
            f"{one.memory_bytes / 1e9:g}",
            one.source,
        )
        for one in [*ACCELERATORS.values(), REFERENCE]
    ]
    head = ("network", "image", "10^6 parameters", "10^9 MACs", "10^6 activations", "layers",
            f"published rows/s, {REFERENCE.title}", "estimated by published")  # fmt: skip
    return f"""## Accuracy of the estimates

The same formula, applied to the {REFERENCE.title} in half precision at batch 256, can be compared
with published rows/s: the ratio of estimated to published is {ratios[0]:.2f} to {ratios[-1]:.2f},
with a median of {median(ratios):.2f}. `best` and `passes` were chosen with knowledge of these
figures; the other constants are round numbers of the usual magnitude, and nothing here validates
the memory, small batches or the other GPUs. So rely on the shape of the curves and the order of the
solvers on this page, not on the rates: **profile your own members on your own devices before you
trust a placement.**

{table(head, networks)}

Sources: parameters, multiply-accumulates (MACs), activations and rows/s are from the benchmark
tables of [pytorch-image-models](https://github.com/huggingface/pytorch-image-models/tree/main/results)
(`model_benchmark_amp_nchw_rtx3090.csv`; ConvNeXt-S from
`benchmark-infer-amp-nhwc-pt210-cu121-rtx3090.csv`, whose rows/s belong to another batch size and
memory layout; EfficientNet-B1 to -B4 are listed as `tf_efficientnet_b1` and so on, the ResNets
beyond 50 as `tv_resnet101` and `tv_resnet152`). Those tables count the outputs of convolutions and
matrix products. In a DenseNet every layer also normalises all preceding features: these additional
activations (`+`) are derived from its structure. The number of layers is that of the convolutions
and linear layers of the architecture.

{table(("GPU", "10^12 flop/s", "arithmetic", "GB/s", "GB", "source"), devices)}

Weights and activations have four bytes, on the {REFERENCE.title} two.
`configs/profiles/estimated.json` has the profiles of all networks on all other GPUs."""


def repeat_section() -> str:
    """How to make the page again."""
    return """## Run it yourself

    pip install -e '.[plot]' -e ./clients
    python -m benchmarks.study                       # this page, its plots and results.json
    python -m benchmarks.study --quick --output DIR  # fewer cases, elsewhere

Cases are in `benchmarks/study/cases.py`, networks and GPUs in `networks.py`, the formula in
`roofline.py`. Everything except the wall times, and searches that a time limit ends, is
reproducible."""
