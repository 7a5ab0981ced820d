"""``data.tokens=auto``: the preset ``quick`` works on registers and on books without further options."""

import pytest

from benchmark.settings.models import AttentionSpec
from benchmark.settings.resolve import resolve
from tasks.language_modeling.task import LanguageModeling


@pytest.mark.parametrize(("has_books", "kind"), [(False, "words"), (True, "bytes")])
def test_registers_have_words_and_books_have_bytes(tmp_path, has_books, kind):
    root = tmp_path / "root" if has_books else None
    for part in ("train", "validation", "test") if root is not None else ():
        (root / "lm" / part).mkdir(parents=True)
        (root / "lm" / part / "book.txt").write_text(f"A {part} of many different words. " * 200)
    settings = resolve("lm", "gpt", "quick", AttentionSpec(name="softmax"), []).settings
    task = LanguageModeling(settings)
    splits = task.load_data(root, tmp_path)
    assert task.tokenizer.kind == kind
    assert ("recall" in task.metrics) == (not has_books)
    assert all(part["whole"] for part in splits.details["parts"].values())
