"""Directories of transformers: answers equal the library's own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_transformers as tiny
import torch
import transformers

from tests.workers.model_files import CPU
from workers import backends
from workers.backends import Model, ModelError
from workers.runtime.spec import ModelSource, PythonSource


def source(directory: Path, **args: Any) -> ModelSource:
    return ModelSource(
        "m",
        "python",
        str(directory),
        python=PythonSource(
            "workers.adapters.transformers:TransformersModel",
            {"path": str(directory), **args},
            extra="transformers",
        ),
    )


def load(directory: Path, **args: Any) -> Model:
    return backends.load(source(directory, **args), CPU)


def refusal(directory: Path, **args: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(directory, **args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rows(texts: list[str]) -> list[Any]:
    return [np.array([*(text.encode() for text in texts), None], object)[:-1]]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_text_model(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_text_model(tmp_path_factory.mktemp("encoder"), task="")


def own_tokens(directory: Path, texts: list[str]) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer(texts, padding=True, truncation=True, return_tensors="pt")


def test_texts_are_classified_as_by_the_pipeline(classifier):
    model = load(classifier)
    (text,) = model.signature.inputs
    assert (text.name, text.datatype, text.shape) == ("text", "BYTES", ())
    assert model.signature.output.shape == (3,)
    assert model.signature.labels == {"logits": tiny.LABELS}
    assert model.signature.kinds == {"logits": "logits"}
    (logits,) = model.predict(rows(tiny.TEXTS))
    pipeline = transformers.pipeline("text-classification", str(classifier), top_k=None)
    wanted = pipeline(tiny.TEXTS, truncation=True, batch_size=5)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    for row, answers in zip(odds / odds.sum(1, keepdims=True), wanted, strict=True):
        scores = {one["label"]: one["score"] for one in answers}
        np.testing.assert_allclose(row, [scores[label] for label in tiny.LABELS], atol=1e-5)


def test_rows_do_not_depend_on_the_others_of_their_batch(classifier):
    for model in (load(classifier), load(classifier, buckets=[4, 12])):
        (together,) = model.predict(rows(tiny.TEXTS))
        alone = [model.predict(rows([text]))[0][0] for text in tiny.TEXTS]
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_texts_are_cut(classifier):
    (cut,) = load(classifier, max_length=3).predict(rows(["dogs bark at the moon", "dogs"]))
    (two,) = load(classifier).predict(rows(["dogs", "dogs"]))
    np.testing.assert_allclose(cut, two, atol=1e-5)
    assert "max_length is 17, the model takes 16 at most" in refusal(classifier, max_length=17)


def test_padding_may_be_on_the_left(tmp_path):
    directory = tiny.make_text_model(tmp_path)
    (right,) = load(directory).predict(rows(tiny.TEXTS))
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    tokens = own_tokens(directory, tiny.TEXTS)
    assert tokens["attention_mask"][1, 0] == 0
    network = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.inference_mode():
        wanted = network(**tokens).logits
    (left,) = load(directory).predict(rows(tiny.TEXTS))
    np.testing.assert_allclose(left, wanted, atol=1e-5)
    assert np.abs(left - right).max() > 1e-3  # positions are counted from the left


def test_tokens_may_come_from_clients(classifier):
    model = load(classifier, takes="tokens")
    assert [one.name for one in model.signature.inputs] == ["input_ids", "attention_mask"]
    assert {one.shape for one in model.signature.inputs} == {(-1,)}
    assert {one.max_shape for one in model.signature.inputs} == {(16,)}
    tokens = own_tokens(classifier, tiny.TEXTS)
    given = [tokens[name].numpy() for name in ("input_ids", "attention_mask")]
    np.testing.assert_allclose(
        model.predict(given)[0], load(classifier).predict(rows(tiny.TEXTS))[0], atol=1e-5
    )


def test_every_token_has_a_class(tmp_path):
    directory = tiny.make_text_model(tmp_path, task="TokenClassification")
    model = load(directory, takes="tokens")
    assert model.signature.output.shape == (-1, 3)
    assert model.signature.labels == {"logits": tiny.LABELS}
    assert "set takes: tokens" in refusal(directory)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_texts_become_vectors(encoder, pooling):
    model = load(encoder, pooling=pooling)
    assert model.signature.output.name == "embedding"
    assert model.signature.kinds == {}
    network = transformers.AutoModel.from_pretrained(encoder).eval()
    for text, vector in zip(tiny.TEXTS, model.predict(rows(tiny.TEXTS))[0], strict=True):
        tokens = own_tokens(encoder, [text])
        with torch.inference_mode():
            answer = network(**tokens)
        states = answer.last_hidden_state[0]
        wanted = {"mean": states.mean(0), "cls": states[0], "pooler": answer.pooler_output[0]}
        np.testing.assert_allclose(vector, wanted[pooling], atol=1e-5)


def test_vectors_of_tokens_need_tokens(encoder):
    assert load(encoder, pooling="none", takes="tokens").signature.output.shape == (-1, 16)
    assert "set takes: tokens" in refusal(encoder, pooling="none")


@pytest.mark.parametrize(
    ("config", "output", "kind"),
    [
        ({"problem_type": "multi_label_classification"}, "scores", "values"),
        ({"problem_type": "regression"}, "logits", "values"),
        ({"id2label": {0: "stars"}}, "logits", "values"),
    ],
)
def test_what_logits_are_depends_on_the_problem(tmp_path, config, output, kind):
    directory = tiny.make_text_model(tmp_path, **config)
    model = load(directory)
    assert model.signature.kinds == {output: kind}
    (values,) = model.predict(rows(tiny.TEXTS))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.inference_mode():
        wanted = network(**own_tokens(directory, tiny.TEXTS)).logits
    if output == "scores":
        wanted = wanted.sigmoid()
    np.testing.assert_allclose(values, wanted, atol=1e-5)


def test_images_are_pixels(tmp_path):
    directory = tiny.make_image_model(tmp_path)
    model = load(directory)
    (pixels,) = model.signature.inputs
    assert (pixels.name, pixels.shape) == ("pixel_values", (3, 8, 8))
    x = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    network = transformers.AutoModelForImageClassification.from_pretrained(directory).eval()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(x)).logits
    np.testing.assert_allclose(model.predict([x])[0], wanted, atol=1e-5)


def test_what_is_not_utf8_fails(classifier):
    with pytest.raises(RuntimeError, match="UnicodeDecodeError"):
        load(classifier).predict([np.array([b"\xff\xfe", b"ok"], object)])


def test_pickled_weights_are_refused(classifier, tmp_path):
    directory = tmp_path / "pickled"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((classifier / name).read_bytes())
    torch.save({}, directory / "pytorch_model.bin")
    assert "has no weights in safetensors; others are pickles" in refusal(directory)


def test_no_code_of_the_directory_runs(tmp_path):
    directory = tiny.make_text_model(tmp_path)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    path.write_text(json.dumps(config))
    (directory / "mine.py").write_text("raise SystemExit('it ran')")
    told = refusal(directory)
    assert "transformers can't load it" in told
    assert "it ran" not in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "its architecture is BertForQuestionAns"),
        ({"architectures": None}, "its architecture is unknown"),
        ({"model_type": "nothing"}, "transformers can't load it"),
    ],
)
def test_what_is_refused(classifier, tmp_path, change, reason):
    config = json.loads((classifier / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert reason in refusal(tmp_path)


def test_a_directory_without_a_configuration_or_tokenizer_is_refused(classifier, tmp_path):
    assert "transformers can't load it" in refusal(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((classifier / name).read_bytes())
    assert "has no tokenizer.json" in refusal(tmp_path)
    load(tmp_path, takes="tokens")
    tiny.make_tokenizer(tmp_path, pad=None)
    assert "its tokenizer has no pad token" in refusal(tmp_path)


def test_what_a_kind_of_model_needs_besides_is_named(tmp_path):
    pretrained = {"input_size": [3, 8, 8], "num_classes": 3}
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "requires the timm library" in refusal(tmp_path)
