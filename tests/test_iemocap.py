"""IEMOCAP on a made tree of the true layout; the voting rule against a table written by hand."""

import pytest

from ser_plugins.corpora import manifest
from ser_plugins.corpora.iemocap import CLASSES, IEMOCAP, PUBLISHED, paper_label
from ser_plugins.corpora.manifest import Row
from ser_plugins.errors import DataError, OptionError

# (turn, official code, evaluators' lines, class by the paper's rule, class by the customary rule)
TRUTH = [
    ("Ses01F_impro01_F000", "neu", ["Neutral;", "Neutral;", "Anger;"], "neutral", "neutral"),
    ("Ses01F_impro01_M003", "exc", ["Excited;", "Happiness;", "Neutral;"], "happiness", "happiness"),  # merged first
    ("Ses01F_impro01_M004", "fru", ["Frustration;", "Frustration;", "Anger;"], None, None),
    ("Ses01F_impro01_F001", "fru", ["Anger; Frustration;", "Frustration;", "Anger;", "C-F1 Neutral;"], "anger", None),
    ("Ses01F_impro01_F002", "xxx", ["Frustration; Anger;", "Anger;", "Other;"], None, None),  # first labels only
    ("Ses01F_impro01_F003", "xxx", ["Sadness;", "Neutral;", "Sadness;", "C-F1 Neutral;"], "neutral", None),  # 2-2
    ("Ses01F_impro01_F004", "xxx", ["Sadness;", "Happiness;", "Sadness;", "C-F1 Excited;"], "happiness", None),
    ("Ses01F_impro01_F005", "ang", ["Anger;", "Anger;", "Neutral;", "C-F1 Sadness;"], None, "anger"),  # three classes
    ("Ses01F_impro01_F006", "xxx", ["Neutral;", "Surprise;", "Fear;", "C-F1 Neutral;"], "neutral", None),  # by self
    ("Ses01F_impro01_F007", "sad", ["Sadness;", "", "Sadness; Neutral;"], "sadness", "sadness"),  # an empty list
    ("Ses01F_impro01_F008", "xxx", ["", "", "Anger;"], None, None),
    ("Ses01F_impro01_F009", "hap", ["Happiness; Excited;", "Excited;", "Disgust;"], "happiness", "happiness"),
    ("Ses01F_impro01_F010", "ang", ["Sadness;", "Anger;", "Frustration;"], None, "anger"),
    ("Ses01F_impro01_F011", "neu", ["Neutral state;", "Neutral;", "Other;"], "neutral", "neutral"),
]


def annotation(turns):
    """An annotation file as the release writes it."""
    lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for second, (turn, code, votes, *_) in enumerate(turns):
        lines.append(f"[{second}.2901 - {second + 1}.2357]\t{turn}\t{code}\t[2.5000, {1 + second / 10:.4f}, 3.6667]")
        for number, vote in enumerate(votes, start=2):
            name, vote = ("C-F1", vote[5:]) if vote.startswith("C-F1") else (f"C-E{number}", vote)
            lines.append(f"{name}:\t{vote}\t(a; comment: Anger;)" if number == 2 else f"{name}:\t{vote}\t()")
        lines += ["A-E3:\tval 3; act  2; dom  2;\t()", "A-F1:\tval 3; act  2; dom  2;\t()", ""]
    return "\n".join(lines)


@pytest.fixture
def release(tmp_path, tone):
    session = tmp_path / "Session1"
    for part in ("EmoEvaluation/Categorical", "transcriptions"):
        (session / "dialog" / part).mkdir(parents=True)
    (session / "dialog/EmoEvaluation/Ses01F_impro01.txt").write_text(annotation(TRUTH))
    (session / "dialog/EmoEvaluation/._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    (session / "dialog/EmoEvaluation/Categorical/Ses01F_impro01_e1.txt").write_text("of one evaluator: not read")
    (session / "dialog/transcriptions/Ses01F_impro01.txt").write_text(
        "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\nM: a remark\n"
        "Ses01F_impro01_M003 [010.0000-011.0000]: Do you have your forms?\n")
    wav = session / "sentences/wav/Ses01F_impro01"
    for turn, *_ in TRUTH:
        tone(wav / f"{turn}.wav", seconds=0.1)
    (wav / "._Ses01F_impro01_F000.wav").write_bytes(b"\x00\x05\x16\x07")
    return tmp_path


@pytest.mark.parametrize("rule", ["paper", "customary"])
def test_every_turn_has_the_class_of_the_table(release, rule):
    rows = manifest.load(manifest.prepare("iemocap", release, release / "out", {"label_rule": rule}))
    expected = {turn: paper if rule == "paper" else customary for turn, _, _, paper, customary in TRUTH}
    assert {row.id: row.emotion for row in rows} == {turn: name for turn, name in expected.items() if name}


def test_speaker_is_that_of_the_turn(release):
    rows = {row.id: row for row in manifest.load(manifest.prepare("iemocap", release, release / "out"))}
    male = rows["Ses01F_impro01_M003"]
    assert (male.speaker, male.gender, male.session) == ("Ses01M", "male", "Ses01")
    assert male.text == "Do you have your forms?"
    female = rows["Ses01F_impro01_F000"]
    assert (female.speaker, female.gender, female.text) == ("Ses01F", "female", "Excuse me.")
    assert rows["Ses01F_impro01_F001"].text == ""


def naive(votes):
    """The rule once more: all ways of choosing a class are counted, without the module's mapping."""
    best = []
    for name, words in zip(CLASSES, [["Anger"], ["Happiness", "Excited"], ["Neutral"], ["Sadness"]], strict=True):
        best.append((sum(vote in words for vote in votes), name))
    named = [number for number, _ in best if number > 0]
    if len(named) > 2 or not [number for number in named if number > 1]:
        return None
    most = sorted(best)[-1][0]
    return next(name for number, name in best if number == most)


def test_rule_on_all_combinations_of_four_votes():
    import itertools

    words = ["Anger", "Happiness", "Excited", "Neutral", "Sadness", "Frustration"]
    labels = IEMOCAP().labels
    for votes in itertools.product(words, repeat=4):
        assert paper_label(votes, labels) == naive(votes)


def test_ratings_go_into_the_manifest(release):
    rows = {row.id: row for row in manifest.load(manifest.prepare("iemocap", release, release / "out"))}
    for second, (turn, *_) in enumerate(TRUTH):
        if turn in rows:
            found = rows[turn].valence, rows[turn].activation, rows[turn].dominance
            assert found == (2.5, pytest.approx(1 + second / 10), 3.6667)


def test_label_map_changes_the_vote(release):
    reader = IEMOCAP(label_map={"Frustration": "anger"})
    assert {item.id: item.emotion for item in reader.read(release)}["Ses01F_impro01_M004"] == "anger"


def test_turn_without_sound_file_is_a_fault(release):
    (release / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
    with pytest.raises(DataError, match=r"missing files \(1\):\n.*Ses01F_impro01_F000.wav"):
        manifest.prepare("iemocap", release, release / "out")


@pytest.mark.parametrize("part", ["sentences/wav", "dialog/EmoEvaluation", "dialog/transcriptions"])
def test_layout_names_the_first_missing_path(release, part):
    (release / "Session1" / part).rename(release / "elsewhere")
    with pytest.raises(DataError, match=f"expected FOLDER/Session1.*first missing path: .*{part}"):
        list(IEMOCAP().read(release))


def test_annotation_without_turns_and_folder_without_annotations(release):
    file = release / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    file.write_text("% header only\n")
    with pytest.raises(DataError, match="holds no turn"):
        list(IEMOCAP().read(release))
    file.unlink()
    with pytest.raises(DataError, match=r"first missing path: .*EmoEvaluation/\*\.txt"):
        list(IEMOCAP().read(release))


def test_differences_from_the_published_counts_are_shown(release):
    text = manifest.report(manifest.prepare("iemocap", release, release / "out"))
    assert "counts differ from the published ones (label_rule paper): 9 turns, published 6416" in text
    assert "Ses01F anger: 1, published 136 (-135)" in text
    assert "Ses05M sadness: 0, published 116 (-116)" in text


@pytest.mark.parametrize(("rule", "classes", "total"), [
    ("paper", [1104, 2496, 1752, 1064], 6416), ("customary", [1103, 1636, 1708, 1084], 5531)])
def test_published_tables_add_up_and_are_recognised(tmp_path, rule, classes, total):
    table = PUBLISHED[rule]
    assert [sum(column) for column in zip(*table.values(), strict=True)] == classes
    rows = [Row("x", "x.wav", 0.0, 1.0, 1.0, 16000, speaker, emotion=name)
            for speaker, numbers in table.items() for name, number in zip(CLASSES, numbers, strict=True)
            for _ in range(number)]
    assert len(rows) == total
    assert "equal the published ones" in IEMOCAP(label_rule=rule).published(rows)


def test_misspelt_label_rule():
    with pytest.raises(OptionError, match="no label_rule 'papers'; did you mean 'paper'"):
        IEMOCAP(label_rule="papers")
