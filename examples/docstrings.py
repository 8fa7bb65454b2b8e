"""Train three small transformers to tell which library a sentence of documentation is from.

    python examples/docstrings.py DIRECTORY

The texts are the docstrings of four installed packages, without the packages' names: of each 1,200
paragraphs to learn from and 100 held out, 40 to 3,500 characters long. Takes minutes on two cores.
Writes one Hugging Face directory per network, `text.yaml`, which serves them as an ensemble, and
`held_out.json`, the held-out texts with their labels. Clients send strings:

    ensembled serve DIRECTORY/text.yaml
    ensembled predict docstrings --data '["Solve a linear system with a sparse matrix."]'

Needs: pip install 'ensembled[demo,transformers]'.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

__all__ = ["main"]

PACKAGES = ("numpy", "scipy", "sklearn", "torch")
_TRAINING, _HELD_OUT = 1200, 100
_SEED = 0
_MAX_TOKENS = 512
_VOCABULARY = 4000
_BATCH_ROWS, _EPOCHS, _LEARNING_RATE = 16, 2, 3e-4

_SHAPE = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
_DISTILBERT = {"dim": 256, "n_layers": 3, "n_heads": 4, "hidden_dim": 1024}
#: Of each network: its configuration, and whether its tokens are pieces of bytes (else of words).
NETWORKS: dict[str, tuple[Any, dict[str, int], bool]] = {
    "bert": (transformers.BertConfig, {**_SHAPE, "intermediate_size": 768}, False),
    "distilbert": (transformers.DistilBertConfig, _DISTILBERT, False),
    "roberta": (transformers.RobertaConfig, {**_SHAPE, "intermediate_size": 768}, True),
}

_CONFIGURATION = """\
ensembles:
  docstrings:
    members: [bert, distilbert, roberta]
    rule: mean
    quorum: 2

members:
"""
_MEMBER = """\
  {name}:
    model: {{transformers: {name}}}
    output: logits
"""


def _paragraphs(package: str, chosen: random.Random) -> Iterator[str]:
    """The first two paragraphs of each docstring of an installed package, without its name.

    The package's files are in random order.
    """
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    names = re.compile("|".join((*PACKAGES, "scikit-learn", "pytorch")), re.IGNORECASE)
    paths = sorted(Path(found.origin).parent.rglob("*.py"))
    chosen.shuffle(paths)
    for path in paths:
        try:
            module = ast.parse(path.read_bytes())
        except SyntaxError:  # some are tests of newer Pythons
            continue
        for node in ast.walk(module):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for paragraph in (ast.get_docstring(node) or "").split("\n\n")[:2]:
                text = " ".join(names.sub("it", paragraph).split())
                if len(text) >= 40 and ">>>" not in text:
                    yield text


def _data() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return texts with their labels to learn from, and held-out ones."""
    chosen = random.Random(_SEED)
    training, held_out = [], []
    for label, package in enumerate(PACKAGES):
        texts: dict[str, int] = {}
        paragraphs = _paragraphs(package, chosen)
        while len(texts) < _TRAINING + _HELD_OUT:
            texts[next(paragraphs)] = label
        held_out += list(texts.items())[:_HELD_OUT]
        training += list(texts.items())[_HELD_OUT:]
    chosen.shuffle(training)
    return training, held_out


def _tokenizer(texts: Sequence[str], *, is_bytes: bool) -> Any:
    """Learn the tokens of a network from texts."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if is_bytes:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=_VOCABULARY, special_tokens=special, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        model_max_length=_MAX_TOKENS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _train(network: Any, tokenizer: Any, examples: Sequence[tuple[str, int]]) -> None:
    """Train a network on texts of similar lengths together, so that little is padded."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    by_length = sorted(examples, key=lambda example: len(example[0]))
    batches = [by_length[i : i + _BATCH_ROWS] for i in range(0, len(by_length), _BATCH_ROWS)]
    chosen = random.Random(_SEED)
    network.train()
    for _ in range(_EPOCHS):
        chosen.shuffle(batches)
        for batch in batches:
            texts, labels = zip(*batch, strict=True)
            tokens = _encode(tokenizer, texts)
            loss = network(**tokens, labels=torch.tensor(labels)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


def _encode(tokenizer: Any, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def _probabilities(network: Any, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return the probability of each package, [texts, packages], of each text by itself."""
    with torch.inference_mode():
        logits = [network(**_encode(tokenizer, [text])).logits for text in texts]
    return torch.cat(logits).softmax(dim=1)


def _make(name: str, directory: Path, training: Sequence[tuple[str, int]]) -> tuple[Any, Any]:
    """Train one of `NETWORKS` and write it to a directory; return it with its tokenizer."""
    kind, shape, is_bytes = NETWORKS[name]
    tokenizer = _tokenizer([text for text, _ in training], is_bytes=is_bytes)
    torch.manual_seed(_SEED)
    config = kind(
        **shape,
        vocab_size=len(tokenizer),
        max_position_embeddings=_MAX_TOKENS + 2,  # RoBERTa's first position is its padding's + 1
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(PACKAGES)),
        label2id={package: label for label, package in enumerate(PACKAGES)},
    )
    classifier: Any = transformers.AutoModelForSequenceClassification
    network = classifier.from_config(config)
    _train(network, tokenizer, training)
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return network, tokenizer


def main() -> None:
    """Train the networks, write them, and print how good each and their mean are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="where to write; made if it is missing")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    training, held_out = _data()
    texts, labels = [text for text, _ in held_out], torch.tensor([label for _, label in held_out])
    members = []
    for name in NETWORKS:
        started = time.monotonic()
        network, tokenizer = _make(name, directory / name, training)
        members.append(_probabilities(network, tokenizer, texts))
        _report(name, members[-1], labels, f", trained in {time.monotonic() - started:.0f} s")
    _report("mean of the three", torch.stack(members).mean(dim=0), labels)
    entries = [_MEMBER.format(name=name) for name in NETWORKS]
    (directory / "text.yaml").write_text(_CONFIGURATION + "".join(entries))
    rows = [{"text": text, "label": PACKAGES[label]} for text, label in held_out]
    (directory / "held_out.json").write_text(json.dumps(rows, indent=1))


def _report(name: str, probabilities: torch.Tensor, labels: torch.Tensor, note: str = "") -> None:
    accuracy = (probabilities.argmax(dim=1) == labels).double().mean()
    print(f"{name}: {accuracy:.3f} of {len(labels)} held-out texts{note}", flush=True)


if __name__ == "__main__":
    main()
