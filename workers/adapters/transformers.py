"""Models of Hugging Face transformers: a directory with a configuration, weights and a tokenizer.

Runs in workers and in inspection. Texts (UTF-8), tokens or pixels flow in; logits or embeddings
flow out. Nothing is asked of the hub, no code of the directory runs, and weights are read from
safetensors only. Texts become tokens here, by the `tokenizers` library, and are padded to the
longest of their batch (or to a bucket), so that answers equal those of `transformers.pipeline`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.adapters import AdapterError

# Before the import, which reads them.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="true")

import torch
import transformers

__all__ = ["TransformersModel"]

_logging: Any = transformers.utils.logging
_logging.disable_progress_bar()

Array = npt.NDArray[Any]
Tensors = dict[str, torch.Tensor]

_SEQUENCE = "sequence-classification"
_TOKENS = "token-classification"
_FEATURES = "feature-extraction"
_IMAGES = "image-classification"
#: How transformers calls the models of timm, which it opens by a wrapper.
_TIMM = "timm_wrapper"
#: Which class loads the model of a task, and how such an architecture's name ends.
_CLASSES: dict[str, tuple[Any, str]] = {
    _SEQUENCE: (transformers.AutoModelForSequenceClassification, "ForSequenceClassification"),
    _TOKENS: (transformers.AutoModelForTokenClassification, "ForTokenClassification"),
    _IMAGES: (transformers.AutoModelForImageClassification, "ForImageClassification"),
    _FEATURES: (transformers.AutoModel, "Model"),
}
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
#: Of a text, per token that the model can take: so many are enough for any language.
_BYTES_PER_TOKEN = 32
#: Tokenizers that know no limit have a huge one; then so many tokens.
_MANY_TOKENS = 512
#: Kinds of models that begin to count positions as RoBERTa does, without its name in theirs.
_OFFSET_TYPES = {"camembert", "longformer", "mpnet", "esm", "data2vec-text", "ibert", "xmod"}


class TransformersModel:
    """A model of transformers, see `workers.backends.python` for the protocol.

    Args:
        path: its directory.
        task: one of `_CLASSES`; by default the one of the architecture.
        takes: for text models, `text` or `tokens`.
        max_length: tokens to which texts are cut.
        buckets: numbers of tokens to which batches are padded, ascending; none pads to the longest.
        pooling: of the vectors of a text's tokens, for `feature-extraction`.
        compile: whether `torch.compile` compiles it.
    """

    def __init__(
        self,
        *,
        path: str,
        task: str = "",
        takes: str = "text",
        max_length: int = 0,
        buckets: Sequence[int] = (),
        pooling: str = "mean",
        compile: bool = False,
    ) -> None:
        self._path = path
        self._config: Any = _call(transformers.AutoConfig.from_pretrained, path)
        if self._config.model_type == _TIMM:
            # The wrapper gives the number of classes itself, and fails where timm wrote it twice.
            (self._config.model_args or {}).pop("num_classes", None)
        self._task = task or _task_of(self._config)
        self._takes_text = takes == "text" and self._task != _IMAGES
        if self._task == _TOKENS and self._takes_text or pooling == "none" and self._takes_text:
            raise AdapterError("it answers for each token: set takes: tokens, and send input_ids")
        self._max_length = max_length
        self._buckets = tuple(buckets)
        self._pooling = pooling
        self._is_compiled = compile
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.labels: dict[str, list[str]] = {}
        self.output: dict[str, str] = {}

    def load(self, device: str) -> None:
        """Open the weights on a device, and the tokenizer."""
        if not any(Path(self._path).glob("*.safetensors")):
            raise AdapterError(
                "has no weights in safetensors; others are pickles, which could run any code: load "
                "it once where you trust it, and write it with save_pretrained"
            )
        kind, _ = _CLASSES[self._task]
        model = _call(kind.from_pretrained, self._path, config=self._config, use_safetensors=True)
        self._device = torch.device(device)
        self._model: Callable[..., Any] = model.to(self._device).eval()
        self._accepted = set(inspect.signature(model.forward).parameters)
        if self._is_compiled:
            self._model = torch.compile(self._model, dynamic=True)
        if self._task == _IMAGES:
            self.inputs = {"pixel_values": ("FP32", _image_shape(self._config))}
        elif self._takes_text:
            self._load_tokenizer()
        else:
            self._limit_length()
            variable = ("INT64", ["tokens"], [self._max_length])
            self.inputs = dict.fromkeys(("input_ids", "attention_mask"), variable)
        if self._task != _FEATURES:
            self._describe_classes()

    def predict(self, **arrays: Array) -> dict[str, Array]:
        """Return the logits or the embedding of each row, FP32."""
        if self._takes_text:
            arrays = self._tokens(arrays["text"])
        tensors = {name: torch.from_numpy(one).to(self._device) for name, one in arrays.items()}
        with torch.inference_mode():
            answer = self._model(**tensors)
            if self._task == _FEATURES:
                return {"embedding": _host(self._pooled(answer, tensors))}
            (name,) = self.output
            logits = answer.logits
            return {name: _host(logits.float().sigmoid() if name == "scores" else logits)}

    def close(self) -> None:
        """Release the weights."""
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _load_tokenizer(self) -> None:
        if not Path(self._path, "tokenizer.json").is_file():
            raise AdapterError(
                "has no tokenizer.json: write it with the tokenizer's save_pretrained, or have "
                "clients send tokens (takes: tokens)"
            )
        tokenizer = _call(transformers.AutoTokenizer.from_pretrained, self._path)
        if tokenizer.pad_token is None:
            raise AdapterError("its tokenizer has no pad token: set one, and save it again")
        self._limit_length(tokenizer.model_max_length)
        self._tokenizer = tokenizer
        most = _BYTES_PER_TOKEN * self._max_length
        self.inputs = {"text": ("BYTES", [], most)}

    def _limit_length(self, own: int = 1 << 30) -> None:
        """Set the most tokens of a text, at most `own` and as many as the model can take."""
        own = min(own, _positions(self._config))
        own = own if own < 1 << 30 else _MANY_TOKENS
        if self._max_length > own:
            raise AdapterError(f"max_length is {self._max_length}, the model takes {own} at most")
        self._max_length = self._max_length or own

    def _tokens(self, texts: Array) -> dict[str, Array]:
        """Return the tokens of texts, padded to the longest or to a bucket, int64 [n, tokens]."""
        tokenizer = self._tokenizer
        found = tokenizer(
            [text.decode() for text in texts], truncation=True, max_length=self._max_length
        )
        longest = max(map(len, found["input_ids"]))
        width = next((one for one in self._buckets if one >= longest), longest)
        pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        padded = {}
        for name in self._accepted.intersection(found):
            rows = np.full((len(texts), width), pads.get(name, 0), np.int64)
            for row, own in zip(rows, found[name], strict=True):
                start = width - len(own) if tokenizer.padding_side == "left" else 0
                row[start : start + len(own)] = own
            padded[name] = rows
        return padded

    def _describe_classes(self) -> None:
        """Say what the logits are: of one class, of several at a time, or numbers."""
        kind, name = "logits", "logits"
        if self._config.problem_type == "regression" or self._config.num_labels == 1:
            kind = "values"
        elif self._config.problem_type == "multi_label_classification":
            kind, name = "values", "scores"
        self.output = {name: kind}
        if self._config.num_labels > 1:
            self.labels = {name: [label for _, label in sorted(self._config.id2label.items())]}

    def _pooled(self, answer: Any, tensors: Tensors) -> torch.Tensor:
        hidden: torch.Tensor = answer.last_hidden_state
        if self._pooling == "none":
            return hidden
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "pooler":
            if getattr(answer, "pooler_output", None) is None:
                raise AdapterError("the model has no pooler: use pooling: mean or cls")
            pooled: torch.Tensor = answer.pooler_output
            return pooled
        mask = tensors["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def _call(load: Callable[..., Any], path: str, **options: Any) -> Any:
    """Call a `from_pretrained`, whose messages speak of the hub."""
    try:
        return load(path, **_LOCAL, **options)
    except ImportError as missing:  # of a kind of model that needs more, such as timm's
        told, _, _ = " ".join(str(missing).split()).partition(". ")
        raise AdapterError(told) from missing
    except (OSError, ValueError) as failure:
        raise AdapterError(
            f"transformers can't load it: {' '.join(str(failure).split())}"
        ) from failure


def _task_of(config: Any) -> str:
    """Return the task of a configuration's architecture."""
    if config.model_type == _TIMM:
        return _IMAGES
    names = config.architectures or [""]
    for task, (_, suffix) in _CLASSES.items():
        if names[0].endswith(suffix):
            return task
    known = ", ".join(f"...{suffix}" for _, suffix in _CLASSES.values())
    raise AdapterError(
        f"its architecture is {names[0] or 'unknown'}, which is none of {known}; "
        f"task can be one of {', '.join(_CLASSES)}"
    )


def _positions(config: Any) -> int:
    """Return how many tokens the model has positions for; many if it knows no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 1 << 30
    # RoBERTa and its kin begin to count behind the padding's index.
    has_offset = "roberta" in config.model_type or config.model_type in _OFFSET_TYPES
    return positions - (config.pad_token_id + 1 if has_offset else 0)


def _image_shape(config: Any) -> list[int]:
    if config.model_type == _TIMM:
        return list(config.pretrained_cfg["input_size"])
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return [getattr(config, "num_channels", 3), height, width]


def _host(tensor: torch.Tensor) -> Array:
    return tensor.float().cpu().numpy()
