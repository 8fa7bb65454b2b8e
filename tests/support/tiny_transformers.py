"""Tiny models of Hugging Face transformers, each in a directory as `save_pretrained` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers.processors import TemplateProcessing

TEXTS = [
    "a cat sat on the mat",
    "dogs bark",
    "the quick brown fox jumps over the lazy dog and then sleeps in the sun",
    "",
    "naïve café — ünïcode 猫",
]
LABELS = ("angry", "calm", "happy")
MAX_TOKENS = 16
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def make_tokenizer(directory: Path, *, pad: str | None = "[PAD]") -> Any:
    """Learn a tokenizer of words from `TEXTS` and write it to a directory."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=_SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token=pad,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    fast.save_pretrained(directory)
    return fast


def make_text_model(
    directory: Path, *, task: str = "SequenceClassification", seed: int = 0, **config: Any
) -> Path:
    """Write a BERT with random weights and its tokenizer; return the directory."""
    tokenizer = make_tokenizer(directory)
    torch.manual_seed(seed)
    made = transformers.BertConfig(
        **_SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        **{"id2label": dict(enumerate(LABELS)), **config},
    )
    kind = getattr(transformers, f"BertFor{task}" if task else "BertModel")
    network = kind(made)
    with torch.no_grad():  # so that answers differ
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    network.save_pretrained(directory)
    return directory


def make_image_model(directory: Path) -> Path:
    """Write a ViT with random weights."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **_SIZES, image_size=8, patch_size=4, num_channels=3, id2label=dict(enumerate(LABELS))
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return directory
