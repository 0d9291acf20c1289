"""Sentencepiece training (BPE) that loses nothing: settings, vocabulary size, and sampling.

The settings keep every space, newline and ligature; a character without a piece becomes its bytes.
The same texts give the same model, to the byte.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from charnn.config import MAX_VOCAB_SIZE
from charnn.errors import ConfigError

SPACE = "\u2581"  # the library's spelling of a space
NEVER_LEARNT = f"\0{SPACE}\u2585"  # NUL, and the library's marks for a space and the unknown
MIN_VOCAB_SIZE = 259  # 256 bytes, the library's "unknown", the newline, the space
SAMPLE_CHARACTERS = 8 << 20  # training reads at most these, in evenly spaced blocks
SAMPLE_BLOCK = 64 << 10
SENTENCE_CHARACTERS = 2000  # the library silently drops sentences over its limit


def auto_vocab_size(characters: int, distinct: int) -> int:
    """Returns a vocabulary size, 512 to 8192, for a text's number of (distinct) characters.

    About the square root of the length of the text, so that even rare pieces are seen often.
    """
    size = 512
    while size < 8192 and 2 * size * size < characters:
        size *= 2
    return max(size, min(MIN_VOCAB_SIZE + 2 * distinct, 8192))


def sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """Yields a text of `total` characters, or about 8 Mi of them in evenly spread blocks."""
    if total <= SAMPLE_CHARACTERS:
        yield from texts
        return
    distance = -(-total * SAMPLE_BLOCK // SAMPLE_CHARACTERS)
    skip = 0  # characters from the start of the next text to the next block
    for text in texts:
        start = skip
        while start < len(text):
            yield text[start : start + SAMPLE_BLOCK]
            start += distance
        skip = start - len(text)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """Trains a model of at most `vocab_size` pieces and returns it as the library writes it.

    Where the text has too many different characters, the rarest get no piece.

    Raises:
        ConfigError: `vocab_size` has no room for the 256 bytes.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise ConfigError(
            f"--vocab-size must be from {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE:,} for sentencepiece "
            f"(256 of them are the bytes), got {vocab_size:,}"
        )
    from sentencepiece import SentencePieceTrainer  # 50 ms that other tokenizers save

    texts = list(texts)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_sentences(texts, _sentence_ends(texts, vocab_size)),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        character_coverage=1.0,
        user_defined_symbols=["\n"],
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        max_sentence_length=4 * SENTENCE_CHARACTERS,
        num_threads=1,  # the number is stored in the model
        minloglevel=2,
    )
    return model.getvalue()


def _sentence_ends(texts: list[str], vocab_size: int) -> re.Pattern[str]:
    """Matches where sentences end: newlines, and characters that get no piece."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in f"{NEVER_LEARNT} \n":
        del counts[character]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    # Half of the room is for single characters, half for pieces of several.
    rare = ranked[(vocab_size - MIN_VOCAB_SIZE) // 2 :]
    return re.compile(f"[{re.escape(NEVER_LEARNT + ''.join(rare))}\n]+")


def _sentences(texts: list[str], ends: re.Pattern[str]) -> Iterator[str]:
    yield " "  # gives the space a piece, and an empty text something to learn
    for text in texts:
        for sentence in ends.split(text):
            for start in range(0, len(sentence), SENTENCE_CHARACTERS):
                yield sentence[start : start + SENTENCE_CHARACTERS]
