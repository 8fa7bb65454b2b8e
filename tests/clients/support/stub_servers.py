"""Stub servers: one model behind HTTP and behind gRPC, which answers what a test says."""

import base64
import contextlib
import gzip
import json
import re
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import grpc
import numpy as np
from ensembled_client.wire.messages import SERVICE, message_class

LENGTH = "Inference-Header-Content-Length"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
METHODS = (
    "ModelInfer",
    "ModelMetadata",
    "ModelConfig",
    "ModelReady",
    "ModelStatistics",
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)


class Failed(Exception):
    """What is answered instead."""

    def __init__(self, status, text="in so many words", retry_after=None):
        super().__init__(text)
        self.status, self.text, self.retry_after = status, text, retry_after


class Model:
    """The ensemble `duo` of the members a and b: x FP32 [n, 2] to output FP32 [n, 2], x + 1.

    Attributes:
        requests: that were received: (parameters, {input: (shape, raw)}, {output: parameters}).
        more_parameters: of answers to infer requests; whole numbers.
        failures: what the next requests are answered with; each is used once.
        config: `ensemble` of the configuration, None for a server without configurations.
        limit_bytes: in the configuration, 0 for none.
        is_ready: of the server.
        changes: that were requested: (kind, model, parameters), contents of files as bytes.
        seen: every question and request, by its HTTP path or gRPC method.
        versions: that were asked for.
    """

    def __init__(self):
        self.requests = []
        self.failures = []
        self.headers = []
        self.sizes_bytes = []
        self.seen = []
        self.is_ready = True
        self.config = {"members": ["a", "b"], "labels": ["cat", "dog"]}
        self.limit_bytes = 0
        self.inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        self.used = "a,b"
        self.values = None
        self.changes = []
        self.versions = []
        self.more_parameters = {}

    @property
    def metadata(self):
        output = {"name": "output", "datatype": "FP32", "shape": [-1, 2]}
        return {
            "name": "duo",
            "versions": ["1"],
            "platform": "ensembled",
            "inputs": self.inputs,
            "outputs": [output],
        }

    def parameters(self):
        if self.limit_bytes:
            return {"max_request_bytes": {"string_value": str(self.limit_bytes)}}
        return {}

    def infer(self, parameters, tensors, outputs):
        """Return ({name: (datatype, shape, raw)}, parameters)."""
        self.requests.append((parameters, tensors, outputs))
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        (shape, raw), *_ = tensors.values()
        x = np.frombuffer(raw, "<f4").reshape(shape) if len(raw) == 4 * np.prod(shape) else None
        values = self.values if self.values is not None else x + 1
        answers = {name: self._output(name, values) for name in outputs}
        parameters = {"members": self.used, "degraded": self.used != "a,b"}
        return answers, parameters | self.more_parameters

    def _output(self, name, values):
        rows = len(values)
        if name == "member_mask":
            mask = np.ones((rows, 2), bool)
            return "BOOL", mask.shape, mask.tobytes()
        if name == "output" or name.startswith("output."):
            values = np.asarray(values, "<f4") + {"output.a": -1, "output.b": 1}.get(name, 0)
            return "FP32", values.shape, values.astype("<f4").tobytes()
        return "FP32", (rows,), np.asarray(values, "<f4")[:, 0].tobytes()

    def classes(self, outputs):
        wanted = outputs.get("output", {}).get("classification")
        if wanted:
            texts = [b"0.75:1:tabby: a cat", b"0.25:0"][:wanted]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            return {"output": ("BYTES", (1, len(texts)), raw)}
        return None

    def statistics(self):
        return {"name": "duo", "version": "1", "inference_count": len(self.requests)}

    def change(self, kind, model, parameters):
        """Return the document that tells what has changed."""
        self.changes.append((kind, model, parameters))
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        return {"generation": 1 + len(self.changes), "changes": ["member a: changed"]}

    def index(self):
        return [
            {"name": "duo", "version": "1", "state": "READY", "reason": ""},
            {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "starting"},
        ]


class HttpServer(ThreadingHTTPServer):
    """The model behind HTTP."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, model, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.model = model
        self._open = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def process_request(self, request, client_address):
        self._open.append(request)
        super().process_request(request, client_address)

    def hang_up(self):
        """Close the connections, whatever they are doing."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.hang_up()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10

    def do_GET(self):
        model = self.server.model
        model.seen.append(self.path)
        if found := re.search(r"/versions/([^/]+)", self.path):
            model.versions.append(unquote(found[1]))
            self.path = self.path.replace(found[0], "")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            if self.path.endswith("/infer"):
                self._infer(model, body)
            elif self.path.partition("?")[0].endswith(("load", "placement", "rollout")):
                self._send(200, self._change(model, json.loads(body)))
            else:
                self._send(*self._document(model))
        except Failed as failed:
            headers = {}
            if failed.retry_after is not None:
                headers["Retry-After"] = str(failed.retry_after)
            self._send(failed.status, {"error": failed.text}, **headers)

    do_POST = do_GET

    def _document(self, model):
        config = {"ensemble": model.config, "parameters": model.parameters()}
        known = {
            "/v2": (200, {"name": "stub", "version": "1", "extensions": []}),
            "/v2/health/live": (200, {"live": True}),
            "/v2/health/ready": (200 if model.is_ready else 503, {"ready": model.is_ready}),
            "/v2/models/duo": (200, model.metadata),
            "/v2/models/duo/ready": (200 if model.is_ready else 503, {"ready": model.is_ready}),
            "/v2/models/stats": (200, {"model_stats": [model.statistics()]}),
            "/v2/models/duo/stats": (200, {"model_stats": [model.statistics()]}),
            "/v2/repository/index": (200, model.index()),
        }
        if model.config is not None:
            known["/v2/models/duo/config"] = (200, config)
        if self.path not in known:
            raise Failed(404)
        return known[self.path]

    def _change(self, model, document):
        *_, name, kind = self.path.split("/")
        if kind == "reload" or kind.startswith("placement"):
            return model.change(kind, "", document)
        if kind == "rollout":
            return model.change(kind, unquote(name), document)
        parameters = {
            key: base64.b64decode(value) if key.startswith("file:") else value
            for key, value in document["parameters"].items()
        }
        return model.change(kind, unquote(name), parameters)

    def _infer(self, model, body):
        model.headers.append(dict(self.headers))
        model.sizes_bytes.append(len(body))
        encoding = self.headers.get("Content-Encoding")
        body = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[encoding](body)
        length = int(self.headers[LENGTH])
        document, position, tensors = json.loads(body[:length]), length, {}
        for tensor in document["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            tensors[tensor["name"]] = (tuple(tensor["shape"]), body[position : position + size])
            position += size
        assert position == len(body)
        outputs = {}
        for output in document["outputs"]:
            outputs[output["name"]] = dict(output["parameters"])
            assert outputs[output["name"]].pop("binary_data")
        answers, parameters = model.infer(document.get("parameters", {}), tensors, outputs)
        answers = model.classes(outputs) or answers
        described = [
            {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": len(raw)},
            }
            for name, (datatype, shape, raw) in answers.items()
        ]
        document = {"model_name": "duo", "parameters": parameters, "outputs": described}
        self._send(200, document, b"".join(raw for _, _, raw in answers.values()))

    def _send(self, status, document, raw=None, **headers):
        body = json.dumps(document).encode()
        if raw is not None:
            headers[LENGTH] = str(len(body))
            body += raw
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class GrpcServer:
    """The model behind gRPC."""

    def __init__(self, model, port=0, credentials=None):
        self.model = model
        self._server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answer(getattr(self, f"_{name}"), name),
                request_deserializer=message_class(f"{name}Request").FromString,
                response_serializer=message_class(f"{name}Response").SerializeToString,
            )
            for name in METHODS
        }
        handler = grpc.method_handlers_generic_handler(SERVICE, methods)
        self._server.add_generic_rpc_handlers((handler,))
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
            self.url = f"grpc://127.0.0.1:{self.port}"
        else:
            self.port = self._server.add_secure_port(address, credentials)
            self.url = f"grpcs://localhost:{self.port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()

    def _answer(self, method, name):
        def answer(message, context):
            self.model.seen.append(name)
            given = {field.name: value for field, value in message.ListFields()}
            if version := given.get("model_version") or given.get("version"):
                self.model.versions.append(version)
            try:
                return message_class(f"{name}Response")(**method(message, context))
            except Failed as failed:
                if failed.retry_after is not None:
                    context.set_trailing_metadata((("retry-after", str(failed.retry_after)),))
                context.abort(CODES[failed.status], failed.text)

        return answer

    def _ModelInfer(self, message, context):
        self.model.headers.append(dict(context.invocation_metadata()))
        self.model.sizes_bytes.append(message.ByteSize())
        tensors = {
            tensor.name: (tuple(tensor.shape), raw)
            for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
        }
        outputs = {one.name: _parameters(one.parameters) for one in message.outputs}
        answers, parameters = self.model.infer(_parameters(message.parameters), tensors, outputs)
        answers = self.model.classes(outputs) or answers
        return {
            "outputs": [
                {"name": name, "datatype": datatype, "shape": shape}
                for name, (datatype, shape, _) in answers.items()
            ],
            "raw_output_contents": [raw for _, _, raw in answers.values()],
            "parameters": {
                "members": {"string_param": parameters["members"]},
                "degraded": {"bool_param": parameters["degraded"]},
                **{
                    name: {"int64_param": value}
                    for name, value in self.model.more_parameters.items()
                },
            },
        }

    def _RepositoryModelLoad(self, message, _):
        self.model.change("load", message.model_name, _parameters(message.parameters))
        return {}

    def _RepositoryModelUnload(self, message, _):
        self.model.change("unload", message.model_name, _parameters(message.parameters))
        return {}

    def _known(self, name):
        if name not in {"", "duo"}:
            raise Failed(404)

    def _ModelMetadata(self, message, _):
        self._known(message.name)
        return self.model.metadata

    def _ModelConfig(self, message, _):
        if self.model.config is None:
            raise Failed(404)
        parameters = dict(self.model.parameters())
        for name, separator in (("members", ","), ("labels", "\n"), ("extra_outputs", ",")):
            if name in self.model.config:
                names = [
                    one if isinstance(one, str) else one["name"] for one in self.model.config[name]
                ]
                parameters[name] = {"string_value": separator.join(names)}
        return {"config": {"name": "duo", "parameters": parameters}}

    def _ModelReady(self, message, _):
        self._known(message.name)
        return {"ready": self.model.is_ready}

    def _ServerLive(self, message, _):
        return {"live": True}

    def _ServerReady(self, message, _):
        return {"ready": self.model.is_ready}

    def _ServerMetadata(self, message, _):
        return {"name": "stub", "version": "1", "extensions": []}

    def _ModelStatistics(self, message, _):
        self._known(message.name)
        return {"model_stats": [self.model.statistics()]}

    def _RepositoryIndex(self, message, _):
        return {"models": self.model.index()}


def _parameters(given):
    return {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in given.items()
    }
