"""The tests' own programs: that they are what a program started by a shell is."""

import os
import signal
import time

import processes

SCRIPT = """
import atexit, os, sys
from concurrent.futures import ThreadPoolExecutor

atexit.register(print, "end")
ThreadPoolExecutor(1).submit(int)  # its thread ends with the interpreter
print(__name__, sys.argv[1:], os.environ["MINE"], sys.path[1], os.getpid() == os.getsid(0))
print("wrong", file=sys.stderr)
if sys.argv[1] == "write":
    open(sys.argv[2], "w").write(20_000 * "x")
if sys.argv[1] == "rank" and os.environ["RANK"] == "1":
    os.kill(os.getpid(), 9)
while sys.argv[1] in ("hang", "rank"):
    pass
sys.exit(3)
"""


def test_a_script_runs_as_a_program(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"MINE": "a b", "PYTHONPATH": "/somewhere"}
    done = processes.run(script, ["no", 1], environment=environment)
    assert done == processes.Done((3,), "__main__ ['no', '1'] a b /somewhere True\nend\n", "wrong\n")
    assert "MINE" not in os.environ
    done = processes.run(script, ["write", tmp_path / "file"], environment=environment, file_size=9999)
    assert "File too large" in done.stderr, done
    assert (tmp_path / "file").stat().st_size == 9999
    assert processes.run(script, ["rank"], environment=environment, processes=2).codes == (-signal.SIGKILL,)
    process = processes.start(script, ["hang"], tmp_path / "out", environment=environment)
    while not (tmp_path / "out").exists():
        time.sleep(0.01)
    processes.kill(process)
    assert process.exitcode == -signal.SIGKILL
