"""Published figures of image classification networks, and of the accelerators they may run on.

Pure data, used by the placement study. Parameters, multiply-accumulates, activations and the
measured rows/s come from the benchmark tables of pytorch-image-models (Apache-2.0, `results/`:
model_benchmark_amp_nchw_rtx3090.csv, and for ConvNeXt-S
benchmark-infer-amp-nhwc-pt210-cu121-rtx3090.csv); the accelerators from their data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ACCELERATORS", "NETWORKS", "REFERENCE", "Accelerator", "Network"]


@dataclass(frozen=True, slots=True)
class Network:
    """An architecture.

    Attributes:
        name: the member's name.
        title: what the literature calls it.
        image: side of the square input, pixels.
        parameters: weights.
        macs: multiply-accumulates per row.
        activations: elements that convolutions and matrix products write per row.
        concatenated: elements per row that are normalised anew after a concatenation; those of
            the dense blocks, which no table counts.
        layers: convolutions and linear layers, one after the other.
        published_rows_per_s: measured on the reference accelerator at batch 256, if it was.
    """

    name: str
    title: str
    image: int
    parameters: float
    macs: float
    activations: float
    layers: int
    published_rows_per_s: float | None = None
    concatenated: float = 0.0

    @property
    def written(self) -> float:
        """Elements per row that pass through memory between layers."""
        return self.activations + self.concatenated


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as its data sheet tells.

    Attributes:
        kind: the name that the driver reports, which profiles are looked up by.
        title: its usual name.
        flops: peak of dense arithmetic per second, in the arithmetic that is named.
        arithmetic: what a network with `element_bytes` weights is computed in.
        element_bytes: of weights and activations.
        bytes_per_s: of its memory.
        memory_bytes: of its memory; the sheet's GB are read as 10^9 bytes.
        source: the data sheet.
    """

    kind: str
    title: str
    flops: float
    arithmetic: str
    element_bytes: int
    bytes_per_s: float
    memory_bytes: int
    source: str


def _dense_blocks(*layers: int) -> float:
    """Elements per row that a DenseNet (growth 32, 224 x 224) normalises after concatenations.

    Every layer of a block first normalises all features so far; so do the transitions, which
    halve features and side, and the end.
    """
    elements, features, side = 0, 64, 56
    for count in layers:
        elements += sum(features + 32 * i for i in range(count + 1)) * side * side
        features, side = (features + 32 * count) // 2, side // 2
    return float(elements)


#: Name, title, side of the image, layers, 1e9 multiply-accumulates, 1e6 activations,
#: 1e6 parameters, rows/s on the reference accelerator.
_TABLE: tuple[tuple[str, str, int, int, float, float, float, float | None], ...] = (
    ("resnet50", "ResNet-50", 224, 54, 4.11, 11.11, 25.56, 2584.36),
    ("resnet101", "ResNet-101", 224, 105, 7.83, 16.23, 44.55, 1599.29),
    ("resnet152", "ResNet-152", 224, 156, 11.56, 22.56, 60.19, 1116.24),
    ("densenet121", "DenseNet-121", 224, 121, 2.87, 6.90, 7.98, 2241.22),
    ("densenet169", "DenseNet-169", 224, 169, 3.40, 7.30, 14.15, 1814.19),
    ("densenet201", "DenseNet-201", 224, 201, 4.34, 7.85, 20.01, 1416.48),
    ("efficientnet_b0", "EfficientNet-B0", 224, 82, 0.40, 6.75, 5.29, 5059.78),
    ("efficientnet_b1", "EfficientNet-B1", 240, 116, 0.71, 10.88, 7.79, 2906.46),
    ("efficientnet_b2", "EfficientNet-B2", 260, 116, 1.02, 13.83, 9.11, 2253.15),
    ("efficientnet_b3", "EfficientNet-B3", 300, 131, 1.87, 23.83, 12.23, 1336.96),
    ("efficientnet_b4", "EfficientNet-B4", 380, 161, 4.49, 49.49, 19.34, 637.24),
    ("inception_v3", "Inception-v3", 299, 95, 5.73, 8.97, 23.83, 2109.39),
    ("xception", "Xception", 299, 75, 8.40, 35.83, 22.86, 1314.05),
    ("vit_b16", "ViT-B/16", 224, 50, 17.58, 23.90, 86.57, 987.74),
    ("swin_t", "Swin-T", 224, 53, 4.51, 17.06, 28.29, 1247.03),
    ("swin_s", "Swin-S", 224, 101, 8.77, 27.47, 49.61, 809.90),
    ("convnext_s", "ConvNeXt-S", 224, 113, 8.71, 21.56, 50.22, None),
    ("mobilenet_v2", "MobileNetV2", 224, 53, 0.31, 6.68, 3.50, 7541.65),
    ("regnety_8gf", "RegNetY-8GF", 224, 91, 8.00, 17.97, 39.18, 1231.05),
    ("vgg16", "VGG16", 224, 16, 15.47, 13.56, 138.36, 1375.43),
    ("vgg19", "VGG19", 224, 19, 19.63, 14.86, 143.67, 1152.13),
)

_CONCATENATED = {
    "densenet121": _dense_blocks(6, 12, 24, 16),
    "densenet169": _dense_blocks(6, 12, 32, 32),
    "densenet201": _dense_blocks(6, 12, 48, 32),
}

#: By name.
NETWORKS = MappingProxyType(
    {
        name: Network(
            name=name,
            title=title,
            image=image,
            parameters=parameters * 1e6,
            macs=macs * 1e9,
            activations=activations * 1e6,
            layers=layers,
            published_rows_per_s=published,
            concatenated=_CONCATENATED.get(name, 0.0),
        )
        for name, title, image, layers, macs, activations, parameters, published in _TABLE
    }
)

_SHEET = "NVIDIA {} data sheet"
_HALVED = ", half of the figure with sparsity"

#: By short name. Volta and Turing compute FP32 as it is; from Ampere on runtimes use TF32.
ACCELERATORS = MappingProxyType(
    {
        "v100": Accelerator(
            "Tesla V100-SXM2-16GB", "V100 16 GB", 15.7e12, "FP32", 4, 900e9, 16 * 10**9,
            _SHEET.format("V100"),
        ),
        "t4": Accelerator(
            "Tesla T4", "T4", 8.1e12, "FP32", 4, 320e9, 16 * 10**9, _SHEET.format("T4")
        ),
        "a100": Accelerator(
            "NVIDIA A100-SXM4-40GB", "A100 40 GB", 156e12, "TF32", 4, 1555e9, 40 * 10**9,
            _SHEET.format("A100"),
        ),
        "h100": Accelerator(
            "NVIDIA H100 80GB HBM3", "H100 80 GB", 494.7e12, "TF32", 4, 3350e9, 80 * 10**9,
            _SHEET.format("H100") + _HALVED,
        ),
        "h200": Accelerator(
            "NVIDIA H200", "H200", 494.7e12, "TF32", 4, 4800e9, 141 * 10**9,
            _SHEET.format("H200") + _HALVED,
        ),
    }
)  # fmt: skip

#: What the published rows/s were measured on. It takes no part in the study.
REFERENCE = Accelerator(
    "NVIDIA GeForce RTX 3090", "RTX 3090", 71e12, "FP16 with FP32 accumulation", 2, 936e9,
    24 * 10**9, "NVIDIA Ampere GA102 white paper",
)  # fmt: skip
