"""The Open Inference Protocol's tensors and bodies, for all who speak it: the one place for them.

Needs NumPy alone and imports nothing else of this package; only `ensembled_client.wire.messages`,
the same over gRPC, needs protobuf.
"""

from ensembled_client.wire.bodies import (
    BINARY_CONTENT_TYPE,
    CLASS_SCORES,
    HEADER_LENGTH,
    SCORES,
    InferResponse,
    binary_request,
    decode_response,
    json_request,
    raw_tensor,
    request_header,
)
from ensembled_client.wire.tensors import (
    DTYPES,
    Array,
    RawTensor,
    WireError,
    bytes_array,
    cast,
    datatype_of,
    decode_array,
    decode_json,
    encode_array,
    encode_json,
    join_elements,
    split_elements,
)

__all__ = [
    "BINARY_CONTENT_TYPE",
    "CLASS_SCORES",
    "DTYPES",
    "HEADER_LENGTH",
    "SCORES",
    "Array",
    "InferResponse",
    "RawTensor",
    "WireError",
    "binary_request",
    "bytes_array",
    "cast",
    "datatype_of",
    "decode_array",
    "decode_json",
    "decode_response",
    "encode_array",
    "encode_json",
    "join_elements",
    "json_request",
    "raw_tensor",
    "request_header",
    "split_elements",
]
