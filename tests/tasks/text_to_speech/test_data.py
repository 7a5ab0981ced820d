"""Reading folders: tables, alignments, splits, and what is refused."""

import json

import numpy as np
import pytest
import soundfile
import torch
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier

from tasks.text_to_speech import ljspeech
from tasks.text_to_speech.text import END, UNKNOWN_ID, Vocabulary, split_characters, split_phonemes

from .conftest import GOOD, tone


def load(make_task, root, **data):
    return make_task("fastspeech2", root, data={"num_train": 50, "num_validation": 50, "num_test": 50, **data})


def test_a_folder_is_read_and_split_by_clip(make_task, write_folder):
    task = load(make_task, write_folder(GOOD))
    names = [[utterance.name for utterance in part] for part in task.speech.parts]
    assert names == [["c0", "c1", "c2", "c4", "c5", "c6"], ["c3"], ["c7"]]
    details = json.dumps(task.speech.details, allow_nan=False)
    assert "by clip" in details
    utterance = task.speech.parts[0][0]
    assert utterance.symbols == ("<speaker reader>", *split_phonemes("sˈʌm wˈɜːdz hˈɪɹ"), END)
    assert not task.speech.aligned


def test_documents_split_the_full_set():
    rows = [ljspeech.Row(f"LJ{d:03d}-{i:04d}", "x", None) for d in range(1, 6) for i in range(3)]
    parts, rule = ljspeech.split_rows(rows)
    documents = [{row.name[:5] for row in part} for part in parts]
    assert documents == [{"LJ004", "LJ005"}, {"LJ003"}, {"LJ001", "LJ002"}]
    assert "by document" in rule


def test_quotation_marks_lose_no_line(tmp_path, write_folder):
    lines = [f'c{i}|he said "one|"he" said' for i in range(8)]
    root = write_folder(lines)
    rows = ljspeech.read_table(root / "tts" / "clips" / "metadata.csv")
    assert len(rows) == 8
    assert rows[0].text == '"he" said'
    assert rows[0].phonemes is None


def test_a_byte_order_mark_and_crlf_change_nothing(write_folder):
    root = write_folder(b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in GOOD).encode())
    rows = ljspeech.read_table(root / "tts" / "clips" / "metadata.csv")
    assert [row.name for row in rows] == [f"c{i}" for i in range(8)]
    assert rows[0].phonemes == "sˈʌm wˈɜːdz hˈɪɹ"


@pytest.mark.parametrize(
    ("lines", "where", "fault"),
    [
        (["id|text|phonemes", *GOOD], "line 1", "is it a header"),
        ([*GOOD[:3], "c3", *GOOD[4:]], "line 4", "1 fields"),
        ([*GOOD[:3], "c3|a|b|c", *GOOD[4:]], "line 4", "4 fields"),
        ([*GOOD, GOOD[2]], "line 9", "c2 is already on line 3"),
        (["../../x|text", *GOOD], "line 1", "can't be the name"),
        ("\n".join(GOOD).replace("some", "caf\xe9").encode("latin-1", "replace"), "line 1", "0xe9.*not UTF-8"),
        (b"", "", "has no line"),
    ],
)
def test_faults_of_a_table_are_told_with_their_line(make_task, write_folder, lines, where, fault):
    with pytest.raises(ValueError, match=f"metadata.csv.*{where}.*{fault}.*expected: ") as caught:
        load(make_task, write_folder(lines))
    assert "\n" not in str(caught.value)


def test_an_empty_transcript_is_named_counted_and_left_out(make_task, write_folder):
    lines = [*GOOD[:2], "c2||", *GOOD[3:]]
    task = load(make_task, write_folder(lines))
    left_out = task.speech.details["left_out"]
    assert left_out == {"count": 1, "first": ["c2: empty transcript"]}
    assert "c2" not in task.numbers


def test_a_damaged_wav_is_named(make_task, write_folder):
    root = write_folder(GOOD)
    path = root / "tts" / "clips" / "wavs" / "c4.wav"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"tts/clips/wavs/c4\.wav: cut short"):
        load(make_task, root)


def test_conversions_are_counted(make_task, write_folder):
    root = write_folder(GOOD)
    for name in ("c1", "c2"):
        samples = np.stack([tone(0.5, 44_100)] * 2, axis=1)
        soundfile.write(root / "tts" / "clips" / "wavs" / f"{name}.wav", samples, 44_100)
    task = load(make_task, root)
    assert task.speech.details["conversions"] == {"2 channels to their mean": 2, "44100 Hz to 22050 Hz": 2}


def write_grid(path, labels, end):
    edges = np.linspace(0.05, end, len(labels) + 1)
    entries = [(float(a), float(b), label) for a, b, label in zip(edges, edges[1:], labels, strict=False)]
    grid = textgrid.Textgrid()
    grid.addTier(IntervalTier("phones", entries, 0, end))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)


def test_given_durations_sum_to_the_frames_or_are_left_out_by_name(make_task, write_folder):
    root = write_folder(GOOD)
    folder = root / "tts" / "clips" / "grids"
    folder.mkdir()
    for i in range(8):
        if i == 1:
            write_grid(folder / "c1.TextGrid", ["S", "AH1", "M"], 0.9)  # the recording has half a second
        elif i == 2:
            np.save(folder / "c2.npy", np.array([1, 2, 3]))
        elif i == 4:
            (folder / "c4.TextGrid").write_text("nothing of the kind")
        elif i != 5:
            write_grid(folder / f"c{i}.TextGrid", ["S", "", "AH1", "M"], 0.45)
    task = load(make_task, root, alignments="grids")
    assert task.speech.aligned
    left_out = task.speech.details["left_out"]
    assert left_out["count"] == 4
    for name, fault in (("c1", "do not sum"), ("c2", "sum to 6"), ("c4", "not a TextGrid"), ("c5", "no c5.TextGrid")):
        assert any(text.startswith(name) and fault in text for text in left_out["first"]), name
    for part in task.speech.parts:
        for utterance in part:
            assert int(utterance.durations.sum()) == len(utterance.mel)
            assert len(utterance.durations) == len(utterance.symbols)
    symbols = task.speech.parts[0][0].symbols
    assert symbols[1] == "_"  # from 0 to 0.05 s
    assert "AH1" in symbols


def test_arrays_of_durations_are_read(make_task, write_folder):
    root = write_folder(GOOD)
    folder = root / "tts" / "clips" / "arrays"
    folder.mkdir()
    for i in range(8):
        symbols = len(split_phonemes("sˈʌm wˈɜːdz hˈɪɹ")) + 2
        durations = np.full(symbols, 2)
        durations[-1] += 1 + 11_025 // 256 - durations.sum()
        np.save(folder / f"c{i}.npy", durations)
    task = load(make_task, root, alignments="arrays")
    assert task.speech.details["left_out"]["count"] == 0
    assert task.speech.parts[0][0].durations.tolist() == durations.tolist()


@pytest.mark.parametrize(("setting", "limit", "what"), [("max_frames", 20, "44 frames"), ("max_symbols", 5, "symbols")])
def test_what_is_longer_is_refused_by_name(make_task, write_folder, setting, limit, what):
    with pytest.raises(ValueError, match=rf"data.{setting} {limit}: c0 \(train\) has .*{what}"):
        load(make_task, write_folder(GOOD), **{setting: limit})


def test_a_folder_that_is_not_there_is_refused(make_task, write_folder):
    root = write_folder(GOOD)
    with pytest.raises(ValueError, match=r"data\.folder 'other'"):
        load(make_task, root, folder="other")
    with pytest.raises(ValueError, match=r"data\.alignments 'none'"):
        load(make_task, root, alignments="none")


def test_symbols():
    assert split_phonemes("ɪn ðˈoʊ kənsˈɜːnd") == [
        *("ɪ", "n", " ", "ð", "ˈo", "ʊ", " ", "k", "ə", "n", "s", "ˈɜː", "n", "d"),
    ]
    assert split_characters("  A\tCafe\u0301 ") == ["a", " ", "c", "a", "f", "é"]
    for split in (split_phonemes, split_characters):
        with pytest.raises(ValueError, match="no "):
            split(" \t")
    vocabulary = Vocabulary([["a", "b", END], ["b", "c"]])
    assert vocabulary.encode(["a", "z", "c", END]) == [3, UNKNOWN_ID, 5, 2]


def test_the_cache_gives_what_was_measured(make_task):
    first, again = (make_task("fastspeech2") for _ in range(2))
    assert first.speech.fingerprint == again.speech.fingerprint
    for one, other in zip(first.speech.parts[2], again.speech.parts[2], strict=True):
        assert torch.equal(one.mel, other.mel)
        assert torch.equal(one.pitch, other.pitch)
        assert np.array_equal(
            first.speech.references[one.name].vocoded.mfcc, again.speech.references[other.name].vocoded.mfcc
        )


def test_the_real_sample_is_read_in_both_layouts(real_data):
    folder = real_data / "tts" / "LJSpeech-sample"
    rows = ljspeech.read_table(folder / "metadata.csv")
    originals = ljspeech.read_table(folder / "metadata_original.csv")
    assert len(rows) == len(originals) == 32
    assert all(row.phonemes for row in rows)
    assert not any(row.phonemes for row in originals)
    assert [row.text for row in rows] == [row.text for row in originals]  # both normalised
    parts, rule = ljspeech.split_rows(rows)
    assert [len(part) for part in parts] == [24, 4, 4]
    assert "by clip" in rule
