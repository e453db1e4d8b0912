"""One utterance by espeak-ng, spoken by a process of its own.

espeak-ng carries state from one utterance to the next (phases, flutter, random numbers) that none of its functions
resets: the same call gives other samples after another history. A fresh process for each utterance makes the samples
a function of the arguments alone, so that a corpus can be made in any order, in parallel, and be resumed.

`speak` runs this file as a script, which takes about 0.03 s; for that it imports the standard library only.
"""

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

OUTPUT_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback, and the call returns when all are made
ENCODING_UTF8 = 1
PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}  # espeak_PARAMETER

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """What espeak-ng is asked to say.

    Arguments
    ---------
    text : str
        English sentence.
    voice : str
        Voice and variant, e.g. ``"en-us+f2"``.
    rate : int
        Words per minute, 80 to 450.
    pitch : int
        0 to 100; 50 is the voice's own, and 50 units are an octave.
    pitch_range : int
        0 (monotone) to 100; 50 is the voice's own.
    volume : int
        0 to 200; 100 is full scale.
    seed : int
        Of the random numbers that some voices use.
    """

    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    volume: int = 80
    seed: int = 1


def speak(utterance: Utterance, library: str, data: str) -> tuple[bytes, int]:
    """Synthesises in a fresh process.

    Arguments
    ---------
    utterance : Utterance
        What to say, and how.
    library, data : str
        Paths of espeak-ng's shared library and of its ``espeak-ng-data``.

    Returns
    -------
    tuple[bytes, int]
        Mono 16-bit samples in the machine's byte order, and their rate in Hz.

    Raises
    ------
    RuntimeError
        espeak-ng failed; what it printed follows.
    """
    request = json.dumps({"utterance": asdict(utterance), "library": library, "data": data})
    # -I and -S: neither the user's environment nor site-packages can change or slow the child.
    done = subprocess.run([sys.executable, "-I", "-S", __file__], input=request.encode(), capture_output=True)
    if done.returncode != 0 or len(done.stdout) <= 4:
        message = done.stderr.decode(errors="replace").strip() or "no samples"
        raise RuntimeError(f"espeak-ng failed on {utterance} (exit status {done.returncode}): {message}")
    return done.stdout[4:], int.from_bytes(done.stdout[:4], "little")


def synthesize(utterance: Utterance, library: str, data: str) -> tuple[bytes, int]:
    """Synthesises in this process: reproducible only for the first utterance of a process.

    Returns and raises as `speak`.
    """
    espeak = ctypes.CDLL(library)
    rate = espeak.espeak_Initialize(OUTPUT_SYNCHRONOUS, 0, data.encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize gave {rate} for {data}")
    chunks: list[bytes] = []

    def collect(samples: ctypes._Pointer, number: int, _events: int) -> int:
        if samples and number > 0:
            chunks.append(ctypes.string_at(samples, number * ctypes.sizeof(ctypes.c_short)))
        return 0

    callback = _Callback(collect)  # kept in a name: espeak-ng holds no reference
    espeak.espeak_SetSynthCallback(callback)
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(utterance.seed))
    _check(espeak.espeak_SetVoiceByName(utterance.voice.encode()), f"voice '{utterance.voice}'")
    for name, number in PARAMETERS.items():
        value = getattr(utterance, name)
        _check(espeak.espeak_SetParameter(number, value, 0), f"{name} {value}")
    text = utterance.text.encode() + b"\0"
    espeak.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint,
                                    ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p]
    _check(espeak.espeak_Synth(text, len(text), 0, 1, 0, ENCODING_UTF8, None, None), "the text")
    espeak.espeak_Terminate()
    return b"".join(chunks), rate


def _check(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"espeak-ng refused {what} (status {status})")


def _main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    samples, rate = synthesize(Utterance(**request["utterance"]), request["library"], request["data"])
    sys.stdout.buffer.write(rate.to_bytes(4, "little") + samples)


if __name__ == "__main__":
    _main()
