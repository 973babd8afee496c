"""make fuzz: the native parsers under libFuzzer with address and undefined-behaviour sanitizers.

python -m tests.fuzz [--runs N] [TARGET ...]   N: executions of each target, default a million (20 to 40 minutes)

Needs clang (apt install clang libclang-rt-14-dev or newer) and atheris (pip install atheris).
A finding leaves its input in build/fuzz/ and ends the run with exit code 1. What is worth keeping for the next run is
in tests/fuzz/corpus/TARGET/.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import atheris

from tests.benchmarks.reporting import Measure, write_report
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/fuzz"
CORPUS = Path(__file__).with_name("corpus")
SANITIZERS = "-fsanitize=address,undefined,fuzzer-no-link"
#: What a target gets fewer executions by: a chain begins with a megabyte of prior, 120 a second.
SLOWER = {"chained": 10}
#: What libFuzzer (72) and atheris (130) end with when a signal stops them, and the signals' own codes.
INTERRUPTED = {72, 130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}
HEADER = """
Native parsers under libFuzzer (atheris), clang's address and undefined-behaviour sanitizers; the pure-Python decoders
as oracle in the same process. Peers: none. A finding would have ended the run.
"""


def compiled() -> Path:
    """The modules of native/ with sanitizers, out of the C that the build left; their folder."""
    folder = FOLDER / "native"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "build/cython/parkfleet/native").glob("*.c"):
        target = folder / f"{source.stem}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            continue
        print(f"compiling {source.stem} with sanitizers", flush=True)
        includes = f"-I{sysconfig.get_path('include')}"
        flags = ["-shared", "-fPIC", "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=undefined", "-w"]
        subprocess.run(["clang", *flags, includes, str(source), "-o", str(target)], check=True)
    return folder


def fuzz(target: str, native: Path, runs: int) -> tuple[int, float]:
    """(executions, seconds) of one target. Ends the process when there is a finding."""
    kept = CORPUS / target
    grown = FOLDER / "corpus" / target
    for folder in (kept, grown):
        folder.mkdir(parents=True, exist_ok=True)
    preload = Path(atheris.path()) / "asan_with_fuzzer.so"
    command = [sys.executable, "-m", "tests.fuzz.run", target, str(native)]
    command += [f"-runs={runs}", "-max_len=4096", "-timeout=20", "-print_final_stats=1"]
    command += [f"-artifact_prefix={FOLDER}/{target}-", str(grown), str(kept)]
    sanitizer = {"LD_PRELOAD": str(preload), "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    began = time.monotonic()
    with (FOLDER / f"{target}.log").open("w") as log:
        code = subprocess.run(
            command, cwd=ROOT, env=os.environ | sanitizer, stdout=log, stderr=log, check=False
        ).returncode
    if code in INTERRUPTED:
        sys.exit(f"{target}: interrupted, by a signal from outside: nothing was found, and not all was tried")
    if code:
        sys.exit(f"{target}: a finding: see {FOLDER / target}.log, and its input beside it")
    said = (FOLDER / f"{target}.log").read_text(errors="replace")
    return int(said.split("stat::number_of_executed_units:")[1].split()[0]), time.monotonic() - began


def main() -> None:
    """Builds, runs the targets one after the other, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; targets are {', '.join(TARGETS)}")
    if shutil.which("clang") is None:
        sys.exit("clang is missing: apt install clang libclang-rt-14-dev (or your release's)")
    native = compiled()
    rows = []
    for target in chosen.targets or TARGETS:
        print(f"{target}: {chosen.runs} executions (log: {FOLDER / target}.log)", flush=True)
        share = SLOWER.get(target, 1)
        executed, seconds = fuzz(target, native, chosen.runs // share)
        wanted = 1_000_000 // share
        enough = executed >= wanted
        rows.append(
            Measure(f"{target}: executions without a finding", "", executed, {}, None, f">= {wanted:,}", enough)
        )
        rows.append(Measure(f"{target}: executions a second", "1/s", executed / seconds))
    write_report("fuzz", HEADER, rows)


if __name__ == "__main__":
    main()
