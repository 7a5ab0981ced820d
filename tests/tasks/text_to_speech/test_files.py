"""Recordings with odd headers, sounds beyond full scale, and options that no such data have a use for."""

import io
import struct
import tarfile

import numpy as np
import pytest
import soundfile
import torch

from tasks.text_to_speech import ljspeech
from tasks.text_to_speech.audio import read_wav
from tasks.text_to_speech.metrics import Cepstra
from tasks.text_to_speech.utterances import Reference, load_references, save_references

from .conftest import GOOD, tone
from .test_data import load, write_grid

SAMPLES = (tone(1.0) * 20_000).astype("<i2")


def wav(riff, data, samples=SAMPLES, *, before=b"", after=b""):
    """A wav file whose two sizes are given, with chunks before and after its data."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, 22_050, 44_100, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + form + before + b"data" + struct.pack("<I", data)
        + samples.tobytes() + after
    )  # fmt: skip


TRUE = SAMPLES.nbytes
LIST = b"LIST" + struct.pack("<I", 5) + b"abcde\0"


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0xFFFFFFFF, 0xFFFFFFFF - 36),
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0x80000024, 0x80000000),
        (0, 0),
        (36, 0),  # a header that was never corrected
        (8, 0),
        (0xFFFFFFFF, 0),
        (0, 0xFFFFFFFF),
        (TRUE + 36, TRUE),
    ],
)
@pytest.mark.parametrize("before", [b"", LIST], ids=["", "a chunk before"])
def test_a_wav_of_a_pipe_is_read_to_its_end(riff, data, before, tmp_path):
    riff += len(before) if riff == 36 else 0
    (tmp_path / "a.wav").write_bytes(wav(riff, data, before=before))
    recording = read_wav(tmp_path / "a.wav", "a.wav")
    np.testing.assert_array_equal(recording.samples.numpy() * 32768, SAMPLES)
    assert recording.conversions == ()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (wav(TRUE + 36, TRUE)[:-100], "cut short"),
        (wav(TRUE + 36, TRUE + 2000), "cut short"),
        (wav(TRUE + 36 + 2000, TRUE), "cut short"),
        (wav(36, 0, SAMPLES[:0]), "0 samples at 22050 Hz are no utterance"),
        (wav(36 + len(LIST), 0, SAMPLES[:0], after=LIST), "0 samples at 22050 Hz are no utterance"),
        (wav(0, 0, SAMPLES[:0]), "0 samples at 22050 Hz are no utterance"),
    ],
)
def test_a_wav_that_states_its_size_must_have_it(content, fault, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^a\.wav: {fault}"):
        read_wav(tmp_path / "a.wav", "a.wav")


def test_chunks_around_the_data_change_nothing(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(TRUE + 36 + 2 * len(LIST), TRUE, before=LIST, after=LIST))
    assert len(read_wav(tmp_path / "a.wav", "a.wav").samples) == len(SAMPLES)


def test_a_flac_of_a_pipe_is_refused_with_the_reason(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 22_050, format="FLAC")
    content = bytearray(file.getvalue())
    content[21] &= 0xF0  # the number of samples, 36 bits, is 0 where the encoder doesn't know it
    content[22:26] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a\.wav: .* a number that its header doesn't know; an utterance of at most"):
        read_wav(tmp_path / "a.wav", "a.wav")


def test_a_sound_beyond_full_scale_is_kept_and_the_record_says_so(make_task, write_folder):
    root = write_folder(GOOD)
    loud = (8 * tone(0.5)).astype(np.float32)
    soundfile.write(root / "tts" / "clips" / "wavs" / "c1.wav", loud, 22_050, subtype="FLOAT")
    task = load(make_task, root)
    said = task.speech.details["conversions"]
    assert said == {"FLOAT to float": 1, "louder than full scale, kept as it is": 1}
    recording = read_wav(root / "tts" / "clips" / "wavs" / "c1.wav", "c1.wav")
    np.testing.assert_array_equal(recording.samples.numpy(), loud)


def test_a_sound_beyond_full_scale_is_not_clipped_in_the_cache(tmp_path):
    loud, soft = torch.tensor([0.5, -4.0, 2.0]), torch.tensor([0.5, -0.25, 1.0])
    nothing = Reference(*(Cepstra(*(np.zeros((1, 1), np.float32) for _ in Cepstra._fields)) for _ in range(2)))
    save_references(tmp_path / "x.npz", [nothing], {"loud": loud, "soft": soft})
    loaded = load_references(tmp_path / "x.npz")
    assert loaded is not None
    torch.testing.assert_close(loaded[1]["loud"], loud / 4, atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded[1]["soft"], soft, atol=1e-4, rtol=0)


@pytest.mark.parametrize("setting", ["folder", "alignments"])
def test_a_folder_without_a_data_root_is_refused(setting, make_task):
    with pytest.raises(ValueError, match=rf"^data\.{setting} 'x': it lies in tts/ of a data root, and there is none"):
        make_task("fastspeech2", data={setting: "x"})


def test_phones_of_a_text_grid_never_replace_characters_in_silence(make_task, write_folder):
    root = write_folder(GOOD)
    (root / "tts" / "clips" / "grids").mkdir()
    for i in range(8):
        write_grid(root / "tts" / "clips" / "grids" / f"c{i}.TextGrid", ["S", "AH1", "M"], 0.45)
    with pytest.raises(
        ValueError, match=r"no usable utterance; c0: a TextGrid has phones; data\.text=characters needs"
    ):
        load(make_task, root, alignments="grids", text="characters")
    assert load(make_task, root, alignments="grids").speech.aligned


@pytest.mark.parametrize("change", ["capitals", "byte order mark", "CR LF"])
def test_alignments_and_recordings_of_other_systems_are_read(change, make_task, write_folder):
    root = write_folder(GOOD)
    folder = root / "tts" / "clips"
    (folder / "grids").mkdir()
    for i in range(8):
        path = folder / "grids" / f"c{i}.TextGrid"
        write_grid(path, ["S", "AH1", "M"], 0.45)
        if change == "capitals":
            path.rename(path.with_suffix(".TEXTGRID"))
            (folder / "wavs" / f"c{i}.wav").rename(folder / "wavs" / f"c{i}.WAV")
        elif change == "byte order mark":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        else:
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    task = load(make_task, root, alignments="grids")
    assert task.speech.details["left_out"]["count"] == 0
    assert "AH1" in task.speech.parts[0][0].symbols


def test_the_archive_is_needed_only_where_the_settings_ask_for_it(tmp_path):
    root = tmp_path / "root"
    (root / "tts").mkdir(parents=True)
    assert ljspeech.needs_archive(root, None)
    assert ljspeech.needs_archive(root, ljspeech.FULL)
    assert not ljspeech.needs_archive(root, "mine")
    for folder, still in (("mine", True), (ljspeech.FULL, False)):
        (root / "tts" / folder).mkdir()
        (root / "tts" / folder / "metadata.csv").write_text("a|b\n")
        assert not ljspeech.needs_archive(root, None)
        assert ljspeech.needs_archive(root, ljspeech.FULL) == still


def test_the_archive_is_left_to_prepare_which_checks_it(tmp_path):
    """It may be a damaged one or another, and each of many workers would unpack it for itself."""
    (tmp_path / "x" / ljspeech.FULL).mkdir(parents=True)
    (tmp_path / "x" / ljspeech.FULL / "metadata.csv").write_text("a|b\n")
    (tmp_path / "tts" / "mine").mkdir(parents=True)
    (tmp_path / "tts" / "mine" / "metadata.csv").write_text("a|b\n")
    with tarfile.open(tmp_path / "tts" / ljspeech.ARCHIVE, "w:bz2") as content:
        content.add(tmp_path / "x" / ljspeech.FULL, ljspeech.FULL)
    for name in (ljspeech.FULL, None):
        with pytest.raises(ValueError, match=r"^tts/LJSpeech-1\.1\.tar\.bz2: is not unpacked yet; ") as caught:
            ljspeech.find_folder(tmp_path, name)
        assert "`lavo-bench prepare tts --name ljspeech --data-root DIR`" in str(caught.value)
    assert ljspeech.find_folder(tmp_path, "mine") == tmp_path / "tts" / "mine"
    assert sorted(path.name for path in (tmp_path / "tts").iterdir()) == [ljspeech.ARCHIVE, "mine"]


@pytest.mark.parametrize("missing", ["metadata.csv", "wavs/LJ003-0001.wav"])
def test_a_folder_that_was_unpacked_in_part_is_refused_with_the_way_out(missing, make_task, tmp_path):
    folder = tmp_path / "tts" / ljspeech.FULL
    (folder / "wavs").mkdir(parents=True)
    if missing != "metadata.csv":
        (folder / "metadata.csv").write_text("LJ003-0001|a|a\n")
    for name in (ljspeech.FULL, None):
        with pytest.raises(ValueError, match=rf"^tts/LJSpeech-1\.1.*: {missing} is missing") as caught:
            load(make_task, tmp_path, folder=name)
        assert "remove tts/LJSpeech-1.1, then `lavo-bench prepare tts --name ljspeech" in str(caught.value)
        assert len(str(caught.value)) <= 300
