"""The specs that processes start with: frozen, serialisable descriptions.

Used in every process. The supervisor composes them from the configuration and sends each child one
of them as a line of JSON; none of them changes while a child lives.
"""

from workers.runtime.spec.ensembles import (
    COMBINED,
    VALUE_SCORES,
    ArenaSpec,
    BlockSpec,
    EnsembleSpec,
    PredictionSpec,
    RuleSpec,
)
from workers.runtime.spec.models import (
    AugmentationSpec,
    Binding,
    FakeOptions,
    FileStamp,
    InputLimit,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputKind,
    OutputSpec,
    Preparation,
    PythonSource,
    Scaling,
    Spread,
    Variant,
)
from workers.runtime.spec.processes import (
    CombinerSpec,
    DeviceSpec,
    MemorySpec,
    PausedRule,
    QueuesSpec,
    TracingSpec,
    WorkerSpec,
)
from workers.runtime.spec.tensors import TensorSpec, symbols_of, variable_symbols

__all__ = [
    "ArenaSpec",
    "AugmentationSpec",
    "Binding",
    "BlockSpec",
    "COMBINED",
    "CombinerSpec",
    "DeviceSpec",
    "EnsembleSpec",
    "FakeOptions",
    "FileStamp",
    "InputLimit",
    "InstanceSpec",
    "MemorySpec",
    "ModelSignature",
    "ModelSource",
    "OutputKind",
    "OutputSpec",
    "PausedRule",
    "PredictionSpec",
    "Preparation",
    "PythonSource",
    "QueuesSpec",
    "RuleSpec",
    "Scaling",
    "Spread",
    "TensorSpec",
    "TracingSpec",
    "VALUE_SCORES",
    "Variant",
    "WorkerSpec",
    "symbols_of",
    "variable_symbols",
]
