"""Our reader of fairseq's files agrees with fairseq."""

from __future__ import annotations

import numpy as np
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.data import Dictionary, data_utils
from fairseq_commands import built

from tasks.fairseq_data import read_binarised, read_dictionary
from tasks.language_modeling.task import LanguageModeling, LanguageModelingSettings
from tasks.summarization.data import DataSettings, load_summaries

SIZES = {"embed_dim": 16, "num_layers": 1, "num_heads": 2}


def test_dictionary_and_texts_equal_those_that_fairseq_reads(lm_bin):
    words = read_dictionary(lm_bin / "dict.txt", "dict.txt")
    dictionary = Dictionary.load(str(lm_bin / "dict.txt"))
    assert list(words) == dictionary.symbols
    for part in ("train", "valid", "test"):
        tokens, ends = read_binarised(lm_bin / part, part, len(words))
        items = data_utils.load_indexed_dataset(str(lm_bin / part), dictionary)
        split = np.split(tokens, ends[:-1])
        assert [one.tolist() for one in split] == [items[index].tolist() for index in range(len(items))]


def test_loss_equals_that_of_fairseq_with_the_same_weights(lm_bin, tmp_path):
    """Each part is one block, which begins with </s> in fairseq as in our reader."""
    length = int(np.fromfile(lm_bin / "test.bin", np.uint16).size)
    settings = LanguageModelingSettings(
        data={"tokens": "fairseq", "context_length": length}, model=SIZES, eval={"lengths": [1]}
    )
    ours = LanguageModeling(settings, backbone="gpt")
    splits = ours.load_data(lm_bin, tmp_path)

    arguments = ("--task=language_modeling", f"--tokens-per-sample={length}", "--arch=attention_lm")
    sizes = ("--decoder-embed-dim=16", "--decoder-layers=1", "--decoder-attention-heads=2")
    _, task, model = built(lm_bin, *arguments, *sizes, attention="cosformer")
    task.load_dataset("test")
    dataset = task.dataset("test")
    assert len(dataset) == len(splits.test) == 1
    loss, num_tokens, _ = CrossEntropyCriterion(task, sentence_avg=False)(model, dataset.collater([dataset[0]]))
    with torch.no_grad():
        columns = ours.score(model.decoder.backbone, ours.collate([splits.test[0]]))
    assert num_tokens == int(columns["num_tokens"])
    torch.testing.assert_close(loss.double(), columns["nats"][0], rtol=1e-6, atol=0)


def test_pairs_equal_those_that_fairseq_reads(pair_bin, tmp_path):
    """The summarisation task has fairseq's tokens, item by item, and its texts."""
    languages = ("src", "tgt")
    dictionaries = [Dictionary.load(str(pair_bin / f"dict.{name}.txt")) for name in languages]
    settings = DataSettings(
        name="fairseq", folder=str(pair_bin), max_source_tokens=64, max_target_tokens=64, max_dropped_share=1.0
    )
    splits = load_summaries(settings, None, tmp_path).splits
    for part, examples in (("train", splits.train), ("valid", splits.validation), ("test", splits.test)):
        source, target = (
            data_utils.load_indexed_dataset(str(pair_bin / f"{part}.src-tgt.{name}"), dictionary)
            for name, dictionary in zip(languages, dictionaries, strict=True)
        )
        assert len(examples) == len(source) == len(target)
        for index, example in enumerate(examples):
            assert example.source.tolist() == source[index].tolist()
            assert example.target.tolist() == target[index].tolist()
            if part == "test":
                assert example.pair.documents == (dictionaries[0].string(source[index]),)
                assert example.pair.references == (dictionaries[1].string(target[index]),)
