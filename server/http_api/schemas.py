"""The documents that the HTTP API reads and writes, as pydantic models for its OpenAPI description.

Used in the front-end. FastAPI checks responses against them, except those of the infer route, whose
requests and responses never become pydantic objects.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from ensembled_client.wire import DTYPES
from pydantic import BaseModel, Field, model_validator

__all__ = [
    "Change",
    "ErrorBody",
    "InferRequestBody",
    "InferResponseBody",
    "IndexEntry",
    "IndexRequest",
    "LoadBody",
    "Liveness",
    "ModelConfig",
    "ModelMetadata",
    "ModelReadiness",
    "Readiness",
    "PlacementBody",
    "ReloadBody",
    "Rollout",
    "RolloutBody",
    "ServerMetadata",
    "Statistics",
    "UnloadBody",
]

Count = Annotated[int, Field(ge=0)]
Datatype = Annotated[str, Field(json_schema_extra={"enum": [*DTYPES, "BYTES"]})]


class ErrorBody(BaseModel):
    """Why a request was refused or has failed."""

    error: str


class Liveness(BaseModel):
    """Whether the front-end answers."""

    live: bool


class Readiness(BaseModel):
    """Whether the server accepts traffic."""

    ready: bool


class ModelReadiness(BaseModel):
    """Whether a model can meet its quorum."""

    name: str = ""
    ready: bool


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is the batch dimension."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """An input or output, without its batch dimension."""

    name: str
    data_type: str
    dims: list[Annotated[int, Field(ge=-1)]]
    optional: bool = False


class ConfigParameter(BaseModel):
    """The value of a parameter."""

    string_value: str


class EnsembleConfiguration(BaseModel):
    """A model's members and how they are combined."""

    members: list[str]
    rule: str
    quorum: Count
    deadline_ms: float
    cascade: list[list[str]] = Field(default=[], description="By stage, the members that it adds.")
    confidence: list[float] = Field(default=[], description="By stage but the last, its threshold.")
    extra_outputs: list[TensorMetadata]
    inputs: dict[str, list[str]] = Field(
        default={}, description="By member, the inputs that it needs, if members differ in them."
    )
    variants: dict[str, dict[str, str]] = Field(
        default={},
        description="Of members that run at lower precision, as which of their variants on which "
        "kind of device.",
    )
    max_shapes: dict[str, list[Count]] = Field(
        default={}, description="The largest sizes of inputs with variable ones, without the batch."
    )
    labels: list[str] = []
    rules: dict[str, str] = Field(default={}, description="By output, if there are several rules.")
    output_labels: dict[str, list[str]] = Field(
        default={}, description="The labels of further outputs' classes."
    )


class ModelConfig(BaseModel):
    """A model's configuration."""

    name: str
    platform: str
    backend: str
    max_batch_size: Count
    input: list[TensorConfig]
    output: list[TensorConfig]
    parameters: dict[str, ConfigParameter]
    allocation: dict[str, dict[str, Count]] = Field(
        description="By device, the members that run there and their batch sizes."
    )
    ensemble: EnsembleConfiguration


class Duration(BaseModel):
    """How often something was done, and how long it took altogether."""

    count: Count
    ns: Count


class InferenceStatistics(BaseModel):
    """The durations of requests, and of their parts."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """The durations of batches of one size."""

    batch_size: Count
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class VersionFigures(BaseModel):
    """What a version has done since its roll-out began."""

    requests: Count
    rows: Count
    errors: Count = Field(description="Requests that failed for a reason of its own.")
    mean_ms: float | None = Field(
        description="Mean time from a worker's start to the answer, null without answers."
    )


class RolloutFigures(BaseModel):
    """A new version of a model, and how it does in comparison with the present one."""

    version: str
    mode: Literal["shadow", "canary"]
    percent: float = Field(description="The share of requests without a version that it gets.")
    began: Count = Field(description="Unix time in milliseconds.")
    present: VersionFigures
    new: VersionFigures
    compared_requests: Count = Field(description="Those that both versions have answered.")
    compared_rows: Count
    disagreeing_rows: float = Field(
        description="Rows with another best class, or with values beyond the tolerance; of a row "
        "with many points, the share of these."
    )
    max_difference: float = Field(description="The largest between two values.")
    dropped_copies: Count = Field(description="Not sent to a shadow, because others came first.")


class Rollout(RolloutFigures):
    """The roll-out of a model."""

    model: str


class RolloutBody(BaseModel):
    """What is to become of a roll-out."""

    action: Literal["promote", "rollback", "percent"]
    percent: float | None = Field(
        default=None, ge=0, le=100, description="The new share, for the action `percent`."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.action == "percent") != (self.percent is not None):
            raise ValueError("percent is for the action percent, which needs it")
        return self


class ModelStatistics(BaseModel):
    """What a model has done since the server's start."""

    name: str
    version: str
    last_inference: Count = Field(description="Unix time in milliseconds.")
    inference_count: Count
    execution_count: Count
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]
    predictions_saved: Count = Field(
        default=0, description="Members' rows that a cascade did not need."
    )
    rollout: RolloutFigures | None = None


class Statistics(BaseModel):
    """What models have done."""

    model_stats: list[ModelStatistics]


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool | None = Field(
        default=None, description="Whether only models that are ready are listed."
    )


class IndexEntry(BaseModel):
    """A model and its state."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
    reason: str


class LoadBody(BaseModel):
    """What to load a model by."""

    parameters: dict[str, str] = Field(
        default={},
        description="`config`: the model's configuration, a JSON text; `file:VERSION/NAME`: the "
        "content of a file, in base64. Without any, the model is loaded as the server has it.",
    )


class UnloadParameters(BaseModel):
    """The parameters of a request to unload."""

    unload_dependents: bool = Field(
        default=False, description="Whether members go, too, that no other model needs."
    )


class UnloadBody(BaseModel):
    """How to unload a model."""

    parameters: UnloadParameters = UnloadParameters()


class ReloadBody(BaseModel):
    """How to read the configuration again."""

    path: str = Field(
        default="", description="The configuration file meant; refused if it is not the server's."
    )
    dry_run: bool = Field(default=False, description="Whether to say only what would change.")


class PlacementBody(BaseModel):
    """An allocation file, as `ensembled allocate --json` prints it; other keys are ignored."""

    members: list[str] = Field(description="The columns of the matrix.")
    devices: list[str] = Field(description="The rows of the matrix; others get nothing.")
    matrix: list[list[Count]] = Field(description="Batch sizes; 0 is no instance.")


class Change(BaseModel):
    """What has changed, or would."""

    generation: Count = Field(description="The number of the deployment that is served now.")
    changes: list[str] = Field(description="A line for each change.")


class InputTensorParameters(BaseModel):
    """The parameters of an input."""

    binary_data_size: int | None = Field(
        default=None, description="Bytes of this input after the JSON, instead of data."
    )


class InputTensorBody(BaseModel):
    """An input."""

    name: str
    shape: list[int]
    datatype: str
    parameters: InputTensorParameters = InputTensorParameters()
    data: Any = Field(
        default=None,
        description="Nested or flat, row-major; BYTES are strings, BF16 is binary only.",
    )


class RequestedOutputParameters(BaseModel):
    """The parameters of a requested output."""

    binary_data: bool = Field(default=False, description="Whether this output is raw.")
    classification: Count = Field(default=0, description="How many of the best classes to name.")
    coverage: float | None = Field(
        default=None, gt=0, lt=1, description="Of an interval or a prediction set."
    )
    quantiles: str | None = Field(default=None, description="Which ones, separated by commas.")


class RequestedOutputBody(BaseModel):
    """An output that the client wants."""

    name: str
    parameters: RequestedOutputParameters = RequestedOutputParameters()


class InferParameters(BaseModel):
    """The parameters of an infer request."""

    timeout: int = Field(
        default=0, ge=0, le=10**15, description="The deadline in microseconds, 0 for none."
    )
    members: str = Field(
        default="", description="Names of the members to ask, separated by commas; all by default."
    )
    quorum: int = Field(
        default=0,
        ge=0,
        le=64,
        description="The fewest members the answer may rest on, 0 for the model's own.",
    )
    priority: Count = Field(default=0, description="1 goes before all others.")
    coverage: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="How often the outputs interval and prediction_set shall hold the truth; the "
        "model's own by default.",
    )
    quantiles: str | None = Field(
        default=None,
        description="Which ones the output quantiles has, ascending, separated by commas.",
    )
    binary_data_output: bool = Field(
        default=False, description="Whether outputs are raw by default."
    )


class InferRequestBody(BaseModel):
    """An infer request in JSON, or the JSON before its raw tensors."""

    inputs: list[InputTensorBody]
    id: str = ""
    parameters: InferParameters = InferParameters()
    outputs: list[RequestedOutputBody] | None = Field(
        default=None, description="The combined output by default."
    )


class OutputTensorParameters(BaseModel):
    """The parameters of an output."""

    binary_data_size: Count = Field(default=0, description="Bytes of this output after the JSON.")


class OutputTensorBody(BaseModel):
    """An output, flat."""

    name: str
    datatype: Datatype
    shape: list[Count]
    parameters: OutputTensorParameters = OutputTensorParameters()
    data: list[float | bool | str | None] = []


class AnswerParameters(BaseModel):
    """What an answer rests on."""

    members: str = Field(description="The members that the answer rests on.")
    degraded: bool = Field(description="Whether these are fewer than were asked.")
    generation: Count = Field(description="The number of the deployment that answers.")
    variants: str | None = Field(
        default=None,
        description="If members run at lower precision: as which of their variants, by member and "
        'kind of device, as JSON: `{"cat": {"cpu-4": "int8"}}`.',
    )


class InferResponseBody(BaseModel):
    """The answer in JSON, or the JSON before its raw tensors."""

    model_name: str
    model_version: str
    id: str = ""
    parameters: AnswerParameters
    outputs: list[OutputTensorBody]
