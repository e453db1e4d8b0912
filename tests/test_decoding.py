"""Beam search against the sum over all CTC paths, with and without a language model that is written out here."""

import itertools
import math
import random
import sys
from collections import defaultdict

import pytest
import sentencepiece
import torch

from ser_plugins import cli, decoding
from ser_plugins.contracts import Frames
from ser_plugins.decoding import BeamSearch, arpa_words, decoder
from ser_plugins.encoders.deepspeech2 import DeepSpeech2
from ser_plugins.errors import DataError, OptionError
from ser_plugins.text import character_tokenizer, subword_tokenizer

ONE, TWO = {"A": -0.5, "B": -1.0, "AB": -1.3, "BA": -0.4}, {("A", "BA"): -0.1, ("BA", "A"): -2.0, ("AB", "B"): -0.2}
BACK_OFF = -0.3
ARPA = "\n".join([
    "\\data\\", "ngram 1=7", "ngram 2=3", "", "\\1-grams:", "-2\t<unk>", "-99\t<s>\t0", "-1\t</s>",
    *(f"{log}\t{word}\t{BACK_OFF}" for word, log in ONE.items()), "", "\\2-grams:",
    *(f"{log}\t{first} {second}" for (first, second), log in TWO.items()), "", "\\end\\", ""])


@pytest.fixture(scope="module")
def characters():
    return sentencepiece.SentencePieceProcessor(model_proto=character_tokenizer())


@pytest.fixture(scope="module")
def subwords():
    texts = ["A BA AB", "ABBA AB A B", "BA BA AB B"]
    return sentencepiece.SentencePieceProcessor(model_proto=subword_tokenizer(texts, "bpe", 7))


@pytest.fixture(scope="module")
def tokenizers(characters, subwords):
    return {"characters": characters, "subwords": subwords}


@pytest.fixture
def arpa(tmp_path):
    """The language model's file."""
    pytest.importorskip("kenlm", reason="kenlm is missing: pip install 'ser_plugins[lm]'")
    pytest.importorskip("pygtrie", reason="pygtrie is missing: pip install 'ser_plugins[lm]'")
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    return path


def drawn(tokenizer, pieces, steps, seed):
    """Log-probabilities ``[steps, pieces]`` that leave all but some pieces none."""
    log_probs = torch.full((steps, tokenizer.vocab_size()), -math.inf)
    values = 1.5 * torch.randn(steps, len(pieces), generator=torch.Generator().manual_seed(seed))
    log_probs[:, pieces] = values.clamp(-2, 2).log_softmax(dim=1)
    return log_probs


def all_texts(tokenizer, pieces, log_probs):
    """Text → the probability of all paths that collapse to it (Graves et al. 2006, eq. 3)."""
    texts = defaultdict(float)
    for path in itertools.product(pieces, repeat=len(log_probs)):
        tokens = [piece for piece, _ in itertools.groupby(path) if piece != 0]
        text = " ".join(tokenizer.decode(tokens).split())
        texts[text] += math.exp(sum(float(log_probs[step, piece]) for step, piece in enumerate(path)))
    return texts


def language(text):
    """Natural logarithm of p(text) under ARPA, by its definition."""
    total, before = 0.0, "<s>"
    for word in text.split():
        back_off = 0.0 if before == "<s>" else BACK_OFF
        total += TWO.get((before, word), back_off + ONE.get(word, -math.inf))
        before = word
    return total * math.log(10)


def some_pieces(tokenizer):
    return [0, *(number for number in range(1, tokenizer.vocab_size()) if set(tokenizer.id_to_piece(number)) <= {
        "A", "B", "▁"})]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens", ["characters", "subwords"])
def test_the_best_text_is_that_of_all_paths(tokenizers, tokens, seed):
    tokenizer = tokenizers[tokens]
    pieces = some_pieces(tokenizer)
    log_probs = drawn(tokenizer, pieces, 5 if tokens == "characters" else 4, seed)
    texts = all_texts(tokenizer, pieces, log_probs)
    (found,) = BeamSearch(tokenizer, beam_size=2000)(Frames.from_list([log_probs], 25.0))
    assert texts[found] == pytest.approx(max(texts.values()), rel=1e-3)


def test_the_best_path_may_have_another_text(characters):
    """Two steps, each blank 0.6 and A 0.4: the best path is silence with 0.36, but A has 0.64."""
    log_probs = torch.full((2, 29), -math.inf)
    log_probs[:, 0], log_probs[:, characters.piece_to_id("A")] = math.log(0.6), math.log(0.4)
    frames = Frames.from_list([log_probs], 25.0)
    encoder = DeepSpeech2(units=4, num_layers=1, channels=1, tokenizer=character_tokenizer())
    assert encoder.decode(frames) == [""]
    assert decoder(encoder)(frames) == [""]
    assert decoder(encoder, beam_size=5)(frames) == ["A"]


@pytest.mark.parametrize("tokens", ["characters", "subwords"])
def test_the_language_model_changes_the_best_text(tokenizers, arpa, tokens):
    tokenizer = tokenizers[tokens]
    pieces, changed = some_pieces(tokenizer), 0
    search = BeamSearch(tokenizer, 2000, arpa, lm_weight=0.7, word_bonus=0.4)
    for seed in range(8):
        log_probs = drawn(tokenizer, pieces, 5 if tokens == "characters" else 4, seed)
        texts = all_texts(tokenizer, pieces, log_probs)
        scores = {text: math.log(chance) + 0.7 * language(text) + 0.4 * len(text.split())
                  for text, chance in texts.items()}
        (found,) = search(Frames.from_list([log_probs], 25.0))
        assert scores[found] == pytest.approx(max(scores.values()), abs=1e-3)
        changed += found != max(texts, key=lambda text: texts[text])
    assert changed > 0


@pytest.mark.parametrize("tokens", ["characters", "subwords"])
def test_it_is_greedy_decoding_where_each_step_is_certain(tokenizers, tokens):
    tokenizer, draw = tokenizers[tokens], random.Random(0)
    texts = [" ".join(draw.choices(["A", "BA", "AB", "ABBA"], k=number)) for number in (9, 1, 4)]
    paths = [torch.tensor([step for piece in tokenizer.encode(text) for step in (piece, piece, 0)]) for text in texts]
    frames = Frames.from_list([torch.nn.functional.one_hot(path, tokenizer.vocab_size()).float().log()
                               for path in paths], 25.0)
    assert BeamSearch(tokenizer, beam_size=3)(frames) == texts  # and the padding is not read


def test_a_long_utterance_is_searched_between_its_pauses(characters, monkeypatch):
    draw = random.Random(1)
    words = ["".join(draw.choices("ABCDE", k=4)) for _ in range(60)]
    path = [step for word in words for piece in characters.encode(word) for step in (piece, 0)]
    path = [step for number in range(60) for step in (*path[8 * number:8 * number + 8], characters.piece_to_id("▁"), 0)]
    log_probs = torch.nn.functional.one_hot(torch.tensor(path), 29).float().log()
    monkeypatch.setattr(decoding, "LONGEST", 2.0)
    search, lengths = BeamSearch(characters, beam_size=2), []
    whole = search.searcher.decode_log_probs
    monkeypatch.setattr(search.searcher, "decode_log_probs", lambda part, length: lengths.append(length) or whole(
        part, length))
    assert search(Frames.from_list([log_probs], 25.0)) == [" ".join(words)]
    assert sum(lengths) == len(path)
    assert 25 <= min(lengths[:-1]) <= max(lengths) <= 50


@pytest.mark.parametrize("tokens", ["characters", "subwords"])
def test_a_long_utterance_without_pauses_is_divided_between_words(tokenizers, monkeypatch, tokens):
    """Silence is within words alone: each of their pieces is followed by blanks, and no space is."""
    tokenizer, draw = tokenizers[tokens], random.Random(2)
    texts = [" ".join(draw.choices(["ABBA", "BA", "AB", "A"], k=40)) for _ in range(5)]
    monkeypatch.setattr(decoding, "LONGEST", 2.0)
    for text in texts:
        path = []
        for piece in tokenizer.encode(text):
            name = tokenizer.id_to_piece(piece)
            if name.startswith("▁") and path[-3:] != [piece, 0, 0]:  # the same piece again needs a blank before it
                while path and path[-1] == 0:
                    path.pop()
            path += [piece] if name == "▁" else [piece, 0, 0]
        log_probs = torch.nn.functional.one_hot(torch.tensor(path), tokenizer.vocab_size()).float().log()
        assert len(path) > 100
        assert BeamSearch(tokenizer, beam_size=2)(Frames.from_list([log_probs], 25.0)) == [text]


def test_without_a_likely_space_it_is_divided_where_one_is_most_likely(characters, monkeypatch):
    """One word to the best tokens, of which the 30th of 40 steps may be a space."""
    monkeypatch.setattr(decoding, "LONGEST", 1.6)
    path = torch.tensor(characters.encode("ABCDE" * 10))
    log_probs = torch.full((50, 29), -9.0).index_put((torch.arange(50), path), torch.tensor(0.0))
    log_probs[:, characters.piece_to_id("▁")] = torch.where(torch.arange(50) == 29, -1.0, -2.0)
    parts = list(BeamSearch(characters, beam_size=2)._parts(log_probs, 40))
    assert [len(part) for part in parts] == [29, 21]


def test_words_without_a_back_off_weight_are_words(arpa):
    arpa.write_text(ARPA.replace("BA\t-0.3", "BA"))
    assert arpa_words(arpa) == set(ONE)


@pytest.mark.parametrize(("options", "message"), [
    ({"beam_size": -1}, "beam_size -1: it must be a whole number, 0"),
    ({"beam_size": 2.5}, "beam_size 2.5: it must be a whole number"),
    ({"beam_size": True}, "beam_size True: it must be a whole number"),
    ({"beam_size": 5, "lm_weight": -0.1}, "lm_weight -0.1: it must be 0 or more"),
    ({"beam_size": 5, "lm_weight": math.inf}, "lm_weight inf: it must be 0 or more"),
    ({"beam_size": 5, "word_bonus": "much"}, "word_bonus much: it must be a number"),
    ({"beam_size": 5, "lm": 3}, "lm 3: it must be an ARPA file, or null"),
    ({"lm": "words.arpa"}, "lm words.arpa: greedy decoding takes no language model; give a beam_size"),
])
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        decoder(DeepSpeech2(units=4, num_layers=1, channels=1, tokenizer=character_tokenizer()), **options)


def test_what_cannot_be_searched_is_refused(characters):
    with pytest.raises(OptionError, match="DeepSpeech2 has no SentencePiece tokenizer, which beam search needs"):
        decoder(DeepSpeech2(units=4, num_layers=1, channels=1), beam_size=3)
    with pytest.raises(OptionError, match="beam_size 0: a beam search follows 1 text or more"):
        BeamSearch(characters, beam_size=0)


@pytest.mark.parametrize("package", ["kenlm", "pygtrie"])
def test_a_package_that_is_missing_is_named(characters, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "speechbrain.integrations.decoders.kenlm_scorer", raising=False)
    (tmp_path / "words.arpa").touch()
    with pytest.raises(OptionError, match=r"needs kenlm and pygtrie \(.*\): pip install 'ser_plugins\[lm\]'"):
        BeamSearch(characters, 5, tmp_path / "words.arpa")


@pytest.mark.parametrize(("content", "message"), [
    (None, "words.arpa: no such language model"),
    (b"", "no ARPA text with words in a section"),
    (b"mmap lm http://kheafield.com/code format version 5\n\x00\xff\xfe\x9d", "no ARPA text; a binary or packed"),
    (ARPA.replace("ngram 1=7", "ngram 1=9").encode(), "words.arpa is corrupt: "),
    (ARPA[:ARPA.index("\\2-grams")].encode(), "words.arpa is corrupt: "),
    (ARPA.replace("-0.4\tBA", "x\tBA").encode(), "words.arpa is corrupt: "),
    (ARPA.lower().encode(), "none of its 4 words, such as 'a', is spelled with the letters"),
])
def test_a_language_model_that_is_none_is_refused(characters, arpa, content, message):
    arpa.unlink()
    if content is not None:
        arpa.write_bytes(content)
    with pytest.raises(DataError, match=message):
        BeamSearch(characters, 5, arpa)


def test_the_command_lines_options_are_the_decoders():
    assert set(cli.DECODING) == set(decoding.RULES)
    for name, default in (("lm_weight", decoding.LM_WEIGHT), ("word_bonus", decoding.WORD_BONUS)):
        assert f"(default: {default})" in cli.DECODING[name][2]
