"""How sentencepiece learns its pieces here: from a text in memory, and so that nothing is lost.

The settings keep every space, newline and ligature as it is, and let what has no piece of its own
fall back to its bytes. The same texts give the same model, to the byte.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from charnn.config import MAX_VOCAB_SIZE
from charnn.errors import ConfigError

SPACE = "\u2581"  # how the library writes a space
NEVER_LEARNT = f"\0{SPACE}\u2585"  # NUL, its space and its mark for the unknown: bytes to us
MIN_VOCAB_SIZE = 259  # 256 bytes, "unknown" (which never comes out), the newline, the space
SAMPLE_CHARACTERS = 8 << 20  # of a text are learnt from, in blocks spread evenly over it
SAMPLE_BLOCK = 64 << 10
SENTENCE_CHARACTERS = 2000  # a sentence over the library's limit would be passed over in silence


def auto_vocab_size(characters: int, distinct: int) -> int:
    """A vocabulary for a text of so many characters, `distinct` different ones: 512 to 8192.

    About the square root of the text's length, so that even rare pieces are seen often enough.
    """
    size = 512
    while size < 8192 and 2 * size * size < characters:
        size *= 2
    return max(size, min(MIN_VOCAB_SIZE + 2 * distinct, 8192))


def sample(texts: Iterable[str], total: int) -> Iterator[str]:
    """At most about 8 Mi characters of a text of `total` ones, in blocks spread evenly over it."""
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


def learn(texts: Iterable[str], vocab_size: int) -> bytes:
    """Learns at most `vocab_size` pieces (BPE) from `texts`; gives the model as the library has it.

    Where the text has too many different characters, the rarest fall back to bytes.

    Raises:
        ConfigError: `vocab_size` has no room for the 256 bytes.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise ConfigError(
            f"vocab_size must be from {MIN_VOCAB_SIZE} to {MAX_VOCAB_SIZE:,} for sentencepiece "
            f"(256 of them are the bytes), got {vocab_size:,}"
        )
    from sentencepiece import SentencePieceTrainer  # 50 ms that other tokenizers save

    texts = list(texts)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=_sentences(texts, _cuts(texts, vocab_size)),
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
        num_threads=1,  # stored in the model
        minloglevel=2,
    )
    return model.getvalue()


def scores(model: bytes) -> list[float | None]:
    """For each id of a model, how early its piece is merged, the highest first; None for no piece.

    What another program needs, beside the bytes of the ids, to encode as the library does.
    """
    from sentencepiece import SentencePieceProcessor  # 50 ms that other tokenizers save

    processor = SentencePieceProcessor(model_proto=model)
    return [
        None
        if processor.is_byte(i) or processor.is_unknown(i) or processor.is_control(i)
        else processor.get_score(i) + 0.0  # no -0.0
        for i in range(processor.vocab_size())
    ]


def _cuts(texts: list[str], vocab_size: int) -> re.Pattern[str]:
    """Where sentences end: at newlines, and at characters that get no piece."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in f"{NEVER_LEARNT} \n":
        del counts[character]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    # Half of the room for single characters, and half for pieces of several.
    rare = ranked[(vocab_size - MIN_VOCAB_SIZE) // 2 :]
    return re.compile(f"[{re.escape(NEVER_LEARNT + ''.join(rare))}\n]+")


def _sentences(texts: list[str], cuts: re.Pattern[str]) -> Iterator[str]:
    yield " "  # a piece even of a text without one, and never nothing to learn from
    for text in texts:
        for sentence in cuts.split(text):
            for start in range(0, len(sentence), SENTENCE_CHARACTERS):
                yield sentence[start : start + SENTENCE_CHARACTERS]
