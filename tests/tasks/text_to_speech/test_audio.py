"""Recordings of every kind, the spectrogram by its definition, pitch of known tones, and espeak-ng."""

import hashlib

import numpy as np
import pytest
import soundfile
import torch

from tasks.text_to_speech import audio
from tasks.text_to_speech.espeak import Espeak
from tasks.text_to_speech.pitch import fill_gaps, pitch, yin
from tasks.text_to_speech.synthetic import ENDS, frame_durations, make_sentences, sentence_texts

from .conftest import tone

SHA_256 = "7e228a32a8c5baf7e2d111070d9a7fc2a42ba2084bf3a34dbb28d83b7419a454"  # of all names with numbers, a line each


@pytest.mark.parametrize(
    ("subtype", "channels", "rate", "conversions"),
    [
        ("PCM_16", 1, 22_050, ()),
        ("PCM_U8", 1, 22_050, ("PCM_U8 to float",)),
        ("PCM_24", 1, 22_050, ("PCM_24 to float",)),
        ("PCM_32", 1, 22_050, ("PCM_32 to float",)),
        ("FLOAT", 1, 22_050, ("FLOAT to float",)),
        ("PCM_16", 2, 22_050, ("2 channels to their mean",)),
        ("PCM_16", 2, 44_100, ("2 channels to their mean", "44100 Hz to 22050 Hz")),
    ],
)
def test_every_wav_becomes_the_same_sound(tmp_path, subtype, channels, rate, conversions):
    samples = np.repeat(tone(0.5, rate)[:, None], channels, axis=1)
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype=subtype)
    recording = audio.read_wav(tmp_path / "x.wav", "x.wav")
    assert recording.conversions == conversions
    wanted = torch.from_numpy(tone(0.5)).float()
    assert len(recording.samples) == len(wanted)
    inner = slice(200, -200)  # resampling rings at the ends
    assert float((recording.samples - wanted)[inner].abs().max()) < (0.01 if subtype == "PCM_U8" else 2e-3)


def test_damaged_wavs_are_named_with_what_is_wrong(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(), 22_050)
    whole = path.read_bytes()
    nan = np.full(5000, np.nan, dtype=np.float32)
    for content, fault in (
        (b"", "can't be read"),
        (b"RIFF nonsense", "can't be read"),
        (whole[: len(whole) // 2], "cut short"),
        (whole[:44], "cut short"),
        (b"not a sound at all" * 100, "can't be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^tts/x\.wav: .*{fault}.*wav") as caught:
            audio.read_wav(path, "tts/x.wav")
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
    soundfile.write(path, nan, 22_050, subtype="FLOAT")
    with pytest.raises(ValueError, match="not a finite number"):
        audio.read_wav(path, "x.wav")
    soundfile.write(path, tone(0.01), 22_050)
    with pytest.raises(ValueError, match="no utterance"):
        audio.read_wav(path, "x.wav")
    soundfile.write(path, tone()[:0], 22_050)
    with pytest.raises(ValueError, match="0 samples at 22050 Hz"):
        audio.read_wav(path, "x.wav")


def test_the_spectrogram_is_its_definition():
    samples = torch.from_numpy(tone(0.2)).double()
    padded = torch.nn.functional.pad(samples[None], (512, 512), mode="reflect")[0]
    window = torch.hann_window(1024, dtype=torch.float64)
    frame = 7
    spectrum = torch.fft.rfft(padded[frame * 256 : frame * 256 + 1024] * window).abs()
    found = audio.magnitudes(samples.float())
    assert len(found) == audio.num_frames(len(samples)) == 1 + len(samples) // 256
    torch.testing.assert_close(found[frame].double(), spectrum, atol=1e-3, rtol=1e-3)
    # Slaney's filters have unit area by frequency: 2 / (width in Hz) at the peak.
    filters = audio.mel_filters()
    assert filters.shape == (513, 80)
    area = filters.sum(0) * 22_050 / 1024
    assert float((area[40:] - 1).abs().max()) < 0.05
    silent = audio.log_mel(torch.zeros(3, 513))
    assert torch.equal(silent, torch.full((3, 80), 1e-5).log())


def test_griffin_lim_repeats_itself_and_keeps_the_spectrogram():
    mel = audio.log_mel(audio.magnitudes(torch.from_numpy(tone(0.4)).float()))
    state = torch.get_rng_state()
    sounds = [audio.griffin_lim(mel, 16) for _ in range(2)]
    assert torch.equal(*sounds)
    assert torch.equal(state, torch.get_rng_state())
    again = audio.log_mel(audio.magnitudes(sounds[0]))
    loud = mel > mel.max() - 5
    assert float((again - mel)[loud].abs().mean()) < 0.5 < float(mel.std())  # partials between two bands lose some
    for count in (1, 2, 3, 4):  # an utterance has at least one frame
        assert len(audio.griffin_lim(mel[:count], 2)) == 768


@pytest.mark.parametrize("hertz", [80.0, 120.5, 220.0, 440.0, 700.0])
def test_pitch_of_a_tone(hertz):
    samples = torch.from_numpy(tone(0.5, hertz=hertz)).float()
    assert float(yin(samples)[10:-10].median()) == pytest.approx(hertz, rel=2e-3)


def test_noise_and_silence_have_no_pitch_and_gaps_are_filled():
    noise = torch.randn(8000, generator=torch.Generator().manual_seed(0))
    assert float((yin(noise) > 0).float().mean()) < 0.1
    assert torch.equal(pitch(torch.zeros(8000), "yin"), torch.zeros(audio.num_frames(8000)))
    np.testing.assert_allclose(fill_gaps(np.array([0, 100, 0, 0, 130, 0.0])), [100, 100, 110, 120, 130, 130])


def test_mp3_is_read_back():
    samples = torch.from_numpy(tone(1.0)).float()
    content = audio.to_mp3(4 * samples)
    assert len(content) < 20_000
    import io

    found, rate = soundfile.read(io.BytesIO(content))
    assert rate == 22_050
    assert abs(len(found) - len(samples)) < 3000


@pytest.mark.parametrize("grammar", ["digits", "sentences"])
def test_espeak_says_the_same_again_and_knows_where_its_phonemes_are(grammar):
    chosen = {"grammar": grammar, "voices": ("f", "m"), "rates": ("slow", "fast"), "long": False}
    first, again = (make_sentences(3, 4, **chosen) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.spoken.samples, other.spoken.samples)
        assert one.spoken.phonemes == other.spoken.phonemes
    for sentence in first:
        count = audio.num_frames(len(sentence.spoken.samples))
        names, durations = frame_durations(sentence.spoken, count, audio.HOP)
        assert len(durations) == len(names) + 2
        assert durations.sum() == count
        assert durations.min() >= 0
        assert "" not in names
    # Silence before a sentence is in front of the first phoneme: its vowel is louder than what comes before.
    assert make_sentences(4, 4, **chosen)[0].text != first[0].text
    with pytest.raises(ValueError, match="no voice 'xx-none'"):
        Espeak().speak("a", voice="xx-none")
    assert Espeak().phonemes("A ship, at sea.").startswith("ɐ ʃˈɪp")


def test_names_with_numbers_are_distinct_and_their_words_stay():
    texts = sentence_texts(0, 1600, grammar="digits", long=False)
    assert len(set(texts)) == 1600
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for text in texts:
        name, *numbers = text.split()
        assert name.istitle()
        assert len(numbers) == 2
        assert set(numbers) <= set(digits)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest() == SHA_256
    assert sentence_texts(0, 1600, grammar="digits", long=True) == texts
    short, long = (sentence_texts(0, 1, grammar="sentences", long=long)[0] for long in (False, True))
    assert not short.endswith(tuple(ENDS))
    assert long.endswith(tuple(ENDS))
    with pytest.raises(ValueError, match="1601 utterances: the embedded grammar has 1600 different sentences"):
        sentence_texts(0, 1601, grammar="digits", long=False)
