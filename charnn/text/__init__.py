"""Texts, tokenizers and token files: from text to ids and back. No torch here."""
