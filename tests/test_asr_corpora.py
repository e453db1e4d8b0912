"""The readers of librispeech, tedlium, voxforge and kaldi on made trees of the true layouts, sound and faulty."""

import io
import random
import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from ser_plugins import testing
from ser_plugins.corpora import manifest, voxforge
from ser_plugins.corpora.kaldi import Kaldi
from ser_plugins.corpora.librispeech import LibriSpeech
from ser_plugins.corpora.tedlium import TEDLIUM, parse_line, plain_text
from ser_plugins.corpora.voxforge import VoxForge
from ser_plugins.errors import DataError, OptionError

READERS = {"kaldi": (Kaldi, "wav.scp"), "librispeech": (LibriSpeech, "train-clean-5"),
           "tedlium": (TEDLIUM, "train/stm"), "voxforge": (VoxForge, r"\*/etc/PROMPTS")}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_sphere(path, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16000)), 16000, format="NIST", subtype="PCM_16")


@pytest.mark.parametrize("name", READERS)
def test_contract(name):
    testing.check_corpus(READERS[name][0])


@pytest.mark.parametrize("name", READERS)
def test_another_layout_is_told_with_the_first_missing_path(tmp_path, name):
    reader, first = READERS[name]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=f"expected FOLDER/.*first missing path: {tmp_path}/{first}$"):
        reader().read(tmp_path)
    with pytest.raises(DataError, match=r"(?s)no-such.*expected .*first missing path: .*no-such$"):
        reader().read(tmp_path / "no-such")


def test_a_single_name_is_a_list_of_one():
    assert TEDLIUM("train-x").splits == ("train-x",)
    assert Kaldi("data/train").parts == ("data/train",)


# LibriSpeech


@pytest.fixture
def chapters(tmp_path, tone):
    write(tmp_path / "SPEAKERS.TXT", ";ID |SEX| SUBSET\n61   | M | dev | 8.0 | Ünal\n\n")
    write(tmp_path / "dev/61/1/61-1.trans.txt", "61-1-0 A TONE\n\n61-1-1  Ça  va\u2028 \n")
    for name in ("61-1-0", "61-1-1"):
        tone(tmp_path / f"dev/61/1/{name}.flac", seconds=0.1)
    return tmp_path


def test_librispeech(chapters):
    found = LibriSpeech("dev").read(chapters)
    assert [(item.id, item.speaker, item.gender, item.text) for item in found] == [
        ("61-1-0", "61", "male", "A TONE"), ("61-1-1", "61", "male", "Ça  va")]
    (chapters / "SPEAKERS.TXT").unlink()
    assert [item.gender for item in LibriSpeech("dev").read(chapters)] == ["", ""]


def test_a_malformed_line_of_the_speakers_costs_their_genders_alone(chapters, tone, caplog):
    write(chapters / "dev/7/1/7-1.trans.txt", "7-1-0 A TONE\n")
    tone(chapters / "dev/7/1/7-1-0.flac", seconds=0.1)
    speakers = write(chapters / "SPEAKERS.TXT", b"61 | M\n7\n8 | X | Andr\xe9\n")
    found = LibriSpeech("dev").read(chapters)
    assert [(item.speaker, item.gender) for item in found] == [("61", "male"), ("61", "male"), ("7", "")]
    assert caplog.messages == ["expected 'speaker | F or M | …'; genders are unknown of 2 lines: "
                               f"{speakers}, line 2, '7'; {speakers}, line 3, '8 | X | Andr\ufffd'"]


def test_all_faults_of_chapters_are_told_at_once(chapters):
    bad = write(chapters / "dev/61/2/61-2.trans.txt", b"61-2-0 caf\xe9\n61-2-1\n61-2-2 \n")
    empty = write(chapters / "dev/7/1/7-1.trans.txt", "")
    with pytest.raises(DataError) as caught:
        LibriSpeech("dev").read(chapters)
    assert str(caught.value) == "\n".join([
        f"4 faults in {chapters / 'dev'}",
        "lines that are not UTF-8: convert the file (1):",
        f"  {bad}, line 1: byte 0xe9",
        "empty transcripts (2):",
        f"  {bad}, line 2: 61-2-1",
        f"  {bad}, line 3: 61-2-2",
        "files without lines (1):",
        f"  {empty}",
    ])


def test_audio_that_a_chapter_lacks_is_told_with_its_published_name(chapters):
    (chapters / "dev/61/1/61-1-1.flac").unlink()
    with pytest.raises(DataError, match=r"missing files \(1\):\n  .*dev/61/1/61-1-1\.flac$"):
        manifest.prepare("librispeech", chapters, chapters / "out", {"splits": "dev"})


def test_a_transcript_that_cannot_be_read_is_named(chapters):
    (chapters / "dev/61/1/61-1.trans.txt").unlink()
    (chapters / "dev/61/1/61-1.trans.txt").mkdir()
    with pytest.raises(DataError, match=r"61-1\.trans\.txt cannot be read: Is a directory"):
        LibriSpeech("dev").read(chapters)


# TED-LIUM

STM = """;; LABEL "o" "Overall" "Overall results"
AimeeMullins_2009P 1 inter_segment_gap 0 17.82 <o,,unknown> ignore_time_segment_in_scoring
AimeeMullins_2009P 1 AimeeMullins 17.82 28.81 <o,f0,female> i 'd like to share <unk> what i 'm told(2) <sil>

AimeeMullins_2009P 1 AimeeMullins 28.81 30 <F0_F> give 'em the parents ' {NOISE} house {SMACK}
AimeeMullins_2009P 1 Voice 30.5 31.25 <o,f0,unknown> Café don 't
AimeeMullins_2009P 1 Voice 31.25 32 <o,f2,male> {COUGH} <sil>
"""


@pytest.fixture
def talks(tmp_path):
    write(tmp_path / "test/stm/AimeeMullins_2009P.stm", STM)
    write(tmp_path / "test/stm/._AimeeMullins_2009P.stm", b"\x00\x05\x16\x07\xff")
    write_sphere(tmp_path / "test/sph/AimeeMullins_2009P.sph")
    return tmp_path


def test_tedlium(talks):
    found = TEDLIUM("test").read(talks)
    assert [(item.id, item.speaker, item.gender, item.start, item.end, item.text) for item in found] == [
        ("AimeeMullins_2009P-0017820-0028810", "AimeeMullins", "female", 17.82, 28.81,
         "i'd like to share what i'm told"),
        ("AimeeMullins_2009P-0028810-0030000", "AimeeMullins", "female", 28.81, 30.0,
         "give 'em the parents' house"),
        ("AimeeMullins_2009P-0030500-0031250", "Voice", "", 30.5, 31.25, "Café don't"),
    ]
    assert {item.path for item in found} == {talks / "test/sph/AimeeMullins_2009P.sph"}
    assert {item.emotion for item in found} == {""}


def test_tedlium_tells_of_lines_without_words(talks, caplog):
    caplog.set_level("INFO")
    TEDLIUM("test").read(talks)
    assert "stm, line 7: no words in '{COUGH} <sil>'; left out" in caplog.text


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_converted_talk_replaces_its_sph_file(talks, tone, suffix, beside):
    sphere = talks / "test/sph/AimeeMullins_2009P.sph"
    tone(sphere.with_suffix(suffix))
    if not beside:
        sphere.unlink()
    assert {item.path for item in TEDLIUM("test").read(talks)} == {sphere.with_suffix(suffix)}


@pytest.mark.parametrize(("text", "words"), [
    ("we 're he 'll they 've it 's", "we're he'll they've it's"),
    ("'cause the '90s were rock 'n' roll", "'cause the '90s were rock 'n' roll"),
    ("read(2) it(11)", "read it"),
    ("it(2) 's", "it's"),
    ("out <sil> (AaronHuey_2010X-223.12-232.68-F0_F-S27)", "out"),
    ("<unk> {NOISE}", ""),
    ("'s gone", "'s gone"),
])
def test_plain_text(text, words):
    assert plain_text(text) == words


def test_words_come_back_from_between_markers():
    draw = random.Random(1)
    for _ in range(200):
        words = [draw.choice(["it", "don", "talk", "über", "a-b", "3d"]) + draw.choice(["", "'s", "'ll", "'"])
                 for _ in range(draw.randrange(1, 8))]
        tokens = []
        for word in words:
            stem, quote, ending = word.partition("'")
            variant = draw.choice(["", "(2)"])
            tokens += [draw.choice(["", "<sil>", "{NOISE}", "<unk>"]), f"{stem}{variant} {quote}{ending}"]
        assert plain_text(" ".join(tokens)) == " ".join(words)


def test_lines_come_back_as_written():
    draw = random.Random(2)
    for _ in range(200):
        start = draw.randrange(10**6) / 100
        fields = (f"T{draw.randrange(99)}", draw.choice("1AB"), "S", start, start + draw.randrange(1, 999) / 100)
        gender = draw.choice(["female", "male", ""])
        line = f"{' '.join(map(str, fields))} <o,f0,{gender or 'unknown'}> x  y "
        assert parse_line(line) == (*fields, gender, "x  y")


def test_all_faults_of_talks_are_told_at_once(talks):
    bad = write(talks / "test/stm/B.stm", b"""\
AimeeMullins_2009P 1 A 100 101 <o,f0,male> one
AimeeMullins_2009P 1 A 100.5 102 <o,f0,male> two
AimeeMullins_2009P 2 A 100.5 102 <o,f0,male> another channel
AimeeMullins_2009P 1 A 101.995 103 <o,f0,male> within the rounding
AimeeMullins_2009P 1 A 105 105 <o,f0,male> zero
AimeeMullins_2009P 1 A 107 106 <o,f0,male> backwards
AimeeMullins_2009P 1 A -1 1 <o,f0,male> negative
AimeeMullins_2009P 1 A nan inf <o,f0,male> no numbers
AimeeMullins_2009P 1 A 1:10 1:12 <o,f0,male> clock
AimeeMullins_2009P 1 A 110 111 no label
AimeeMullins_2009P 1 A 110
AimeeMullins_2009P 1 A 112 113 <o,f0,male>
AimeeMullins_2009P 1 A 114 115 <o,f0,male> caf\xe9
C 1 A 0 1 <o,f0,male> no such talk
C 1 A 1 2 <o,f0,male> told once
""")
    write(talks / "test/stm/D.stm", ";; nothing else\n")
    with pytest.raises(DataError) as caught:
        TEDLIUM("test").read(talks)
    assert str(caught.value) == "\n".join([
        f"12 faults in {talks / 'test'}",
        "lines that are not UTF-8: convert the file (1):",
        f"  {bad}, line 13: byte 0xe9",
        "malformed lines (7):",
        f"  {bad}, line 5: no segment goes from 105 to 105 s",
        f"  {bad}, line 6: no segment goes from 107 to 106 s",
        f"  {bad}, line 7: no segment goes from -1 to 1 s",
        f"  {bad}, line 8: no segment goes from nan to inf s",
        f"  {bad}, line 9: times are no numbers of seconds: 1:10 1:12",
        f"  {bad}, line 10: expected 'talk channel speaker start end <label> words', "
        "found 'AimeeMullins_2009P 1 A 110 111 no label'",
        f"  {bad}, line 11: expected 'talk channel speaker start end <label> words', "
        "found 'AimeeMullins_2009P 1 A 110'",
        "empty transcripts (1):",
        f"  {bad}, line 12",
        "overlapping lines: correct or remove one (1):",
        f"  {bad}, line 2: begins at 100.5 s, before 101 s, the end of {bad}, line 1",
        "missing audio (1):",
        f"  {bad}, line 14: no {talks / 'test/sph/C'}.sph or other format",
        "files without lines (1):",
        f"  {talks / 'test/stm/D.stm'}",
    ])


def test_a_long_line_overlaps_with_all_that_it_covers(talks):
    lines = [f"AimeeMullins_2009P 1 A {times} <o,f0,male> x" for times in ("3 4", "1 9", "5 6", "9 10")]
    write(talks / "test/stm/AimeeMullins_2009P.stm", "\n".join(lines))
    with pytest.raises(DataError, match=r"(?s)^2 faults.*line 1: begins at 3 s.*line 2\n.*line 3: .*line 2$"):
        TEDLIUM("test").read(talks)


def test_a_split_without_transcripts(tmp_path):
    for part in ("stm", "sph"):
        (tmp_path / "train" / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"stm holds no transcripts: expected FOLDER/SPLIT/stm/TALK\.stm"):
        TEDLIUM().read(tmp_path)


# VoxForge

README = "User Name:{user}\n\nSpeaker Characteristics:\n\nGender: {gender}\nAge Range: Adult\nLanguage: EN\n"


def submit(folder, tone, name, prompts, *, file="PROMPTS", kind="wav", audio=("a0001", "a0002"), user="", gender=""):
    write(folder / name / "etc" / file, prompts)
    write(folder / name / "etc/README", README.format(user=user, gender=gender))
    for stem in audio:
        tone(folder / name / kind / f"{stem}.{kind}", seconds=0.1)
    return folder / name


@pytest.fixture
def submissions(tmp_path, tone):
    folder = tmp_path / "voxforge"
    submit(folder, tone, "1snoke-20120412-hge", "1snoke-20120412-hge/mfc/a0001 IT SEEMED THE ORDER\n"
           "1snoke-20120412-hge/mfc/a0002 OF THINGS\n", user="someone", gender="Male")
    submit(folder, tone, "ralf-h-20071220-de34", "a0001 Füße, schön …\r\n\r\na0002 Straße\r\n".encode(),
           file="prompts-original", kind="flac", gender="männlich;", audio=("a0001", "a0002", "a0003"))
    submit(folder, tone, "anonymous-20080504-qvg", "a0001 Füße\x85 weiter\na0002 Straße\n".encode("latin-1"),
           user="anonymous", gender="[Female]")
    submit(folder, tone, "anonymous-20101010-abc", "*/a0001 ONE\n*/a0002 TWO\n", gender="Please Select")
    submit(folder, tone, "collection", "a0001 ONE\na0002 TWO", user="Ann B.", gender="\n")
    (folder / "logs").mkdir()
    write(folder / "index.html", "no submission")
    return folder


def test_voxforge(submissions):
    found = VoxForge().read(submissions)
    assert [(item.id, item.speaker, item.gender, item.text) for item in found] == [
        ("1snoke-20120412-hge-a0001", "1snoke", "male", "IT SEEMED THE ORDER"),
        ("1snoke-20120412-hge-a0002", "1snoke", "male", "OF THINGS"),
        ("anonymous-20080504-qvg-a0001", "anonymous-20080504-qvg", "female", "Füße\x85 weiter"),
        ("anonymous-20080504-qvg-a0002", "anonymous-20080504-qvg", "female", "Straße"),
        ("anonymous-20101010-abc-a0001", "anonymous-20101010-abc", "", "ONE"),
        ("anonymous-20101010-abc-a0002", "anonymous-20101010-abc", "", "TWO"),
        ("collection-a0001", "Ann B.", "", "ONE"),
        ("collection-a0002", "Ann B.", "", "TWO"),
        ("ralf-h-20071220-de34-a0001", "ralf-h", "male", "Füße, schön …"),
        ("ralf-h-20071220-de34-a0002", "ralf-h", "male", "Straße"),
    ]
    assert all(item.path.is_file() and item.session == item.path.parent.parent.name for item in found)
    assert found[-1].path == submissions / "ralf-h-20071220-de34/flac/a0002.flac"


def test_prompts_in_upper_case_come_first_and_a_readme_is_not_needed(submissions):
    folder = submissions / "1snoke-20120412-hge"
    write(folder / "etc/prompts-original", "a0001 It seemed.\n")
    (folder / "etc/README").unlink()
    first = VoxForge().read(submissions)[0]
    assert (first.text, first.gender) == ("IT SEEMED THE ORDER", "")


@pytest.fixture
def faulty(submissions, tone):
    for name in ("ralf-h-20071220-de34", "anonymous-20080504-qvg", "anonymous-20101010-abc", "collection"):
        shutil.rmtree(submissions / name)
    submit(submissions, tone, "a-20080101-bad", "a0001 ONE\na0002\na0003 NO AUDIO\na0001 AGAIN\na0004 EMPTY\n")
    write(submissions / "a-20080101-bad/wav/a0004.wav", b"")
    (submissions / "b-20080101").mkdir()
    submit(submissions, tone, "c-20080101", "a0001 ONE\n", audio=())
    submit(submissions, tone, "d-20080101", "\n")
    return submissions


def test_all_faults_of_submissions_are_told_at_once(faulty):
    with pytest.raises(DataError) as caught:
        VoxForge().read(faulty)
    prompts = faulty / "a-20080101-bad/etc/PROMPTS"
    assert str(caught.value) == "\n".join([
        f"7 faults in 5 submissions in {faulty}; the option 'faulty: skip' leaves them out",
        "empty transcripts (1):",
        f"  {prompts}, line 2: a0002",
        "missing audio (1):",
        f"  {prompts}, line 3: no a0003.wav or other format in wav/ or flac/",
        "duplicate prompts (1):",
        f"  {prompts}, line 4: a0001, first at {prompts}, line 1",
        "empty audio (1):",
        f"  {prompts}, line 5: {faulty / 'a-20080101-bad/wav/a0004.wav'} has 0 bytes",
        "submissions without prompts (2):",
        f"  {faulty / 'b-20080101'}: expected etc/PROMPTS or etc/prompts-original",
        f"  {faulty / 'd-20080101/etc/PROMPTS'} is empty",
        "submissions without audio (1):",
        f"  {faulty / 'c-20080101'}: expected wav/ or flac/",
    ])


def test_faulty_submissions_are_left_out_where_that_is_asked_for(faulty, caplog):
    found = VoxForge(faulty="skip").read(faulty)
    assert [item.id for item in found] == [
        "1snoke-20120412-hge-a0001", "1snoke-20120412-hge-a0002", "a-20080101-bad-a0001"]
    assert f"left out: 7 faults in 5 submissions in {faulty}\nempty transcripts (1):" in caplog.text
    with pytest.raises(OptionError, match="no value of faulty 'skp'; did you mean 'skip'"):
        VoxForge(faulty="skp")


@pytest.fixture
def archives(submissions, tmp_path):
    """The same submissions packed, one of them without a folder at the top."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for path in submissions.glob("*/"):
        if (path / "etc").is_dir():
            suffix, top = (".tar.gz", ".") if path.name == "collection" else (".tgz", path.name)
            with tarfile.open(folder / f"{path.name}{suffix}", "w:gz") as file:
                file.add(path, arcname=top)
    return folder


def told(utterances):
    return [(item.id, item.speaker, item.gender, item.text, item.session) for item in utterances]


def test_archives_hold_what_their_folders_hold(archives, submissions, tmp_path):
    found = VoxForge(extract=tmp_path / "out/extracted").read(archives)
    assert told(found) == told(VoxForge().read(submissions))
    assert all((tmp_path / "out/extracted") in item.path.parents for item in found)
    assert sorted(path.name for path in archives.iterdir()) == [
        "1snoke-20120412-hge.tgz", "anonymous-20080504-qvg.tgz", "anonymous-20101010-abc.tgz", "collection.tar.gz",
        "ralf-h-20071220-de34.tgz"]


def test_archives_are_extracted_once_and_beside_themselves_where_that_is_named(archives, submissions, monkeypatch):
    first = VoxForge(extract=str(archives)).read(archives)
    monkeypatch.setattr(voxforge, "extract", lambda *paths: pytest.fail(f"extracts again: {paths}"))
    assert VoxForge(extract=str(archives)).read(archives) == first == VoxForge().read(archives)
    assert told(first) == told(VoxForge().read(submissions))


def test_archives_are_refused_without_a_folder_to_extract_to(archives, submissions):
    shutil.copytree(submissions / "collection", archives / "collection")
    with pytest.raises(DataError, match=r"4 archives have no folder beside them, first 1snoke.*: extract them, or"):
        VoxForge().read(archives)


def test_a_killed_extraction_is_not_taken_as_whole(archives, submissions, tmp_path, monkeypatch):
    folder, extractall = tmp_path / "extracted", tarfile.TarFile.extractall

    def killed(file, path, **options):
        extractall(file, path, members=file.getmembers()[:3], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "extractall", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)  # a killed process removes nothing
    with pytest.raises(KeyboardInterrupt):
        VoxForge(extract=folder).read(archives)
    monkeypatch.undo()
    assert [path.name[0] for path in folder.iterdir()] == ["."]
    assert told(VoxForge(extract=folder).read(archives)) == told(VoxForge().read(submissions))


def pack(path, *members):
    """An archive of (name, type, link or content)."""
    with tarfile.open(path, "w:gz") as file:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, content if kind == tarfile.SYMTYPE else ""
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(content.encode()) if kind == tarfile.REGTYPE else None)


PROMPT = ("x/etc/PROMPTS", tarfile.REGTYPE, "a0001 ONE\n")


@pytest.mark.parametrize(("members", "message"), [
    ([PROMPT, ("../../escaped", tarfile.REGTYPE, "x")], "outside the destination"),
    ([PROMPT, ("x/wav", tarfile.SYMTYPE, "/"), ("x/wav/escaped", tarfile.REGTYPE, "x")], "absolute path"),
    ([PROMPT, ("x/wav", tarfile.SYMTYPE, "../../.."), ("x/wav/escaped", tarfile.REGTYPE, "x")], "outside"),
    ([PROMPT, ("x/wav/pipe", tarfile.FIFOTYPE, "")], "special file"),
    ([("x/readme", tarfile.REGTYPE, "x")], r"holds 0 folders with etc/, not one"),
    ([PROMPT, ("y/etc/PROMPTS", tarfile.REGTYPE, "x")], r"holds 2 folders with etc/, not one"),
])
def test_unsafe_archives_and_those_of_something_else_are_refused(tmp_path, members, message):
    pack(tmp_path / "u-20080101-x.tgz", *members)
    with pytest.raises(DataError, match=rf"(?s)archives that cannot be extracted \(1\):\n.*-x\.tgz.*{message}"):
        VoxForge(extract=tmp_path / "deep/er").read(tmp_path)
    assert not list(tmp_path.rglob("escaped"))
    assert not list((tmp_path / "deep/er").iterdir())


def test_broken_archives_are_told_together_or_skipped(archives, tmp_path, caplog):
    whole = (archives / "1snoke-20120412-hge.tgz").read_bytes()
    write(archives / "1snoke-20120412-hge.tgz", whole[:len(whole) // 2])
    write(archives / "collection.tar.gz", "an error page of the server")
    reader = VoxForge(extract=tmp_path / "extracted", faulty="skip")
    with pytest.raises(DataError, match=r"(?s)^2 faults in 3 submissions.*1snoke.*; fetch it again.*collection.*fetch"):
        VoxForge(extract=tmp_path / "extracted").read(archives)
    assert {item.speaker for item in reader.read(archives)} == {
        "anonymous-20080504-qvg", "anonymous-20101010-abc", "ralf-h"}
    write(archives / "1snoke-20120412-hge.tgz", whole)
    assert "1snoke" in {item.speaker for item in reader.read(archives)}
    assert "archives that cannot be extracted (2)" in caplog.text


def test_a_folder_that_cannot_be_made_is_told(archives, tmp_path):
    write(tmp_path / "file", "")
    with pytest.raises(DataError, match="is the folder writable and the disk not full"):
        VoxForge(extract=tmp_path / "file").read(archives)


def test_empty_prompts_are_told(submissions):
    write(submissions / "collection/etc/PROMPTS", b"")
    with pytest.raises(DataError, match=r"(?s)^1 faults.*submissions without prompts \(1\):.*PROMPTS is empty$"):
        VoxForge().read(submissions)


def test_prompts_that_cannot_be_read_are_named(submissions, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match=r"etc/\w+ cannot be read: Permission denied"):
        VoxForge().read(submissions)


# Kaldi

def write_kaldi(part, **files):
    for name, lines in files.items():
        write(part / {"wav": "wav.scp"}.get(name, name), lines if isinstance(lines, bytes) else "\n".join(lines) + "\n")
    return part


@pytest.fixture
def data(tmp_path, tone):
    for name in ("u1", "u2", "sub folder/u3"):
        tone(tmp_path / f"wav/{name}.wav", seconds=0.1)
    write_kaldi(
        tmp_path / "train", wav=["u1\twav/u1.wav", "u2 wav/u2.wav ", f"u3 {tmp_path}/wav/sub folder/u3.wav"],
        text=["u3 Grüße  an\u2028alle", "u1\tWE CALL IT BEAR", "u2 <NOISE> hm"], utt2spk=["u1 A", "u2 A", "u3\tB"],
        spk2gender=["A f", "B m", "C m"])
    return tmp_path


def test_kaldi(data):
    found = Kaldi("train").read(data)
    assert [(item.id, item.path.relative_to(data / "wav").as_posix(), item.speaker, item.gender, item.text)
            for item in found] == [
        ("u1", "u1.wav", "A", "female", "WE CALL IT BEAR"), ("u2", "u2.wav", "A", "female", "<NOISE> hm"),
        ("u3", "sub folder/u3.wav", "B", "male", "Grüße  an\u2028alle")]
    assert {(item.start, item.end) for item in found} == {(None, None)}


def test_kaldi_with_segments(data):
    write_kaldi(data / "train", segments=["s1 u1 0.00 0.05", "s2 u1 0.05 0.1", "s3 u2 0.02 -1"],
                text=["s1 a", "s2 b", "s3 c"], utt2spk=["s1 A", "s2 B", "s3 C"], utt2dur=["s1 0.04", "s2 0.05", "s3 9"])
    found = Kaldi("train").read(data)
    assert [(item.id, item.path.name, item.start, item.end) for item in found] == [
        ("s1", "u1.wav", 0.0, 0.05), ("s2", "u1.wav", 0.05, 0.1), ("s3", "u2.wav", 0.02, None)]


def test_kaldi_takes_several_parts_or_the_folder_itself(data, tone):
    tone(data / "wav/v1.wav")
    write_kaldi(data / "dev", wav=["v1 wav/v1.wav"], text=["v1 yes"], utt2spk=["v1 D"])
    assert [item.id for item in Kaldi(["train", "dev"]).read(data)] == ["u1", "u2", "u3", "v1"]
    write_kaldi(data, wav=["v1 wav/v1.wav"], text=b"\xef\xbb\xbfv1 yes\r\n", utt2spk=["v1 D"])
    assert [(item.id, item.gender, item.text) for item in Kaldi().read(data)] == [("v1", "", "yes")]
    with pytest.raises(DataError, match=f"first missing path: {data / 'tset/wav.scp'}$"):
        Kaldi(["train", "tset"]).read(data)


def test_a_file_that_cannot_be_read_is_named(data):
    (data / "train/text").unlink()
    (data / "train/text").mkdir()
    with pytest.raises(DataError, match="train/text cannot be read: Is a directory"):
        Kaldi("train").read(data)


@pytest.mark.parametrize(("name", "message"), [
    ("text", r"utterances without a line in text \(3\)"), ("utt2spk", r"utterances without a line in utt2spk \(3\)"),
    ("wav", r"lines of text without audio \(3\)")])
def test_an_empty_file_of_a_data_folder_is_told(data, name, message):
    write_kaldi(data / "train", **{name: b""})
    with pytest.raises(DataError, match=message):
        Kaldi("train").read(data)


@pytest.mark.parametrize("name", ["text", "utt2spk", "wav.scp"])
def test_a_missing_file_of_a_data_folder_is_told(data, name):
    (data / "train" / name).unlink()
    with pytest.raises(DataError, match=f"first missing path: {data / 'train' / name}$"):
        Kaldi("train").read(data)


def test_commands_are_never_run(data):
    mark = data / "executed"
    write_kaldi(data / "train", wav=["u1 wav/u1.wav", f"u2 touch {mark} |", "u3 sph2pipe -f wav x.sph|"])
    with pytest.raises(DataError) as caught:
        Kaldi("train").read(data)
    assert str(caught.value) == "\n".join([
        f"2 faults in {data / 'train'}",
        "commands, which are never run: store what they print as audio files and name these (2):",
        f"  {data / 'train/wav.scp'}, line 2: u2 would run 'touch {mark}'",
        f"  {data / 'train/wav.scp'}, line 3: u3 would run 'sph2pipe -f wav x.sph'",
    ])
    assert not mark.exists()


def test_all_faults_of_a_data_folder_are_told_at_once(data):
    part = write_kaldi(
        data / "train", wav=["u1 wav/u1.wav", "u2 wav/no.wav", "u3 data.ark:17", "u4", "u1 wav/u2.wav"],
        text=b"u1\nu2 caf\xe9\nu3 x\nu9 y\n", utt2spk=["u1 A B", "u2 A", "u4 A", "u4 A"], spk2gender=["A female"],
        utt2dur=["u1 long", "u2 0"])
    with pytest.raises(DataError) as caught:
        Kaldi("train").read(data)
    wav, text, speakers = part / "wav.scp", part / "text", part / "utt2spk"
    assert str(caught.value) == "\n".join([
        f"14 faults in {part}",
        "duplicate keys (2):",
        f"  {wav}, line 5: 'u1', first at {wav}, line 1",
        f"  {speakers}, line 4: 'u4', first at {speakers}, line 3",
        "missing audio: paths are absolute or relative to the corpus folder (1):",
        f"  {wav}, line 2: {data / 'wav/no.wav'}",
        "places within archives: extract them and name the files (1):",
        f"  {wav}, line 3: {data / 'data.ark:17'}",
        "malformed lines (5):",
        f"  {wav}, line 4: expected 'recording path'",
        f"  {part / 'spk2gender'}, line 1: expected 'speaker f' or 'speaker m', found 'A female'",
        f"  {part / 'utt2dur'}, line 1: expected 'utterance seconds', found 'u1 long'",
        f"  {part / 'utt2dur'}, line 2: expected 'utterance seconds', found 'u2 0'",
        f"  {speakers}, line 1: expected 'utterance speaker'",
        "lines that are not UTF-8: convert the file (1):",
        f"  {text}, line 2: byte 0xe9",
        "utterances without a line in text (1):",
        f"  {wav}, line 4: u4 is not in {text}",
        "lines of text without audio (1):",
        f"  {text}, line 4: no recording or segment is named u9",
        "utterances without a line in utt2spk (1):",
        f"  {wav}, line 3: u3 is not in {speakers}",
        "empty transcripts (1):",
        f"  {text}, line 1: u1",
    ])


@pytest.mark.parametrize(("line", "message"), [
    ("u1", "expected 'utterance recording start end' in seconds, found 'u1 '"),
    ("u1 u1 0", "found 'u1 u1 0'"),
    ("u1 u1 0 1 2", "found 'u1 u1 0 1 2'"),
    ("u1 u1 a 1", "found 'u1 u1 a 1'"),
    ("u1 u1 1 1", "found 'u1 u1 1 1'"),
    ("u1 u1 2 1", "found 'u1 u1 2 1'"),
    ("u1 u1 -2 1", "found 'u1 u1 -2 1'"),
    ("u1 u1 0 nan", "found 'u1 u1 0 nan'"),
    ("u1 u1 nan -1", "found 'u1 u1 nan -1'"),
    ("u1 u1 0 inf", "found 'u1 u1 0 inf'"),
    ("u1 r 0 1", "'r' has no line in wav.scp"),
])
def test_malformed_segments_are_refused(data, line, message):
    write_kaldi(data / "train", segments=[line], text=["u1 x"], utt2spk=["u1 A"])
    with pytest.raises(DataError, match=rf"(?s)^1 faults.*segments, line 1: .*{message}"):
        Kaldi("train").read(data)


def test_durations_of_other_segments_are_told(data):
    part = write_kaldi(data / "train", segments=["u1 u1 0.5 1"], text=["u1 x"], utt2spk=["u1 A"], utt2dur=["u1 0.6"])
    with pytest.raises(DataError, match=rf"utt2dur, line 1: u1 takes 0.6 s, but 0.5 s at {part}/segments, line 1$"):
        Kaldi("train").read(data)


def test_a_folder_of_20000_lines_comes_back_as_written(data):
    count, draw = 20000, random.Random(3)
    truth = {f"s{index:05d}": (f"u{index % 3 + 1}", f"spk{index % 97}", index / 100, f"word {draw.random()}")
             for index in draw.sample(range(count), count)}
    write_kaldi(
        data / "train", segments=[f"{key} {recording} {start} {start + 0.5}"
                                  for key, (recording, _, start, _) in truth.items()],
        text=[f"{key} {truth[key][3]}" for key in sorted(truth)],
        utt2spk=[f"{key} {truth[key][1]}" for key in sorted(truth)],
        utt2dur=[f"{key} 0.5" for key in sorted(truth)])
    found = Kaldi("train").read(data)
    assert {item.id: (item.path.stem, item.speaker, item.start, item.text) for item in found} == truth
    assert [item.id for item in found] == list(truth)
