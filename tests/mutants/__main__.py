"""Apply each patch of this folder by itself, and see its tests fail: ``python -m tests.mutants [NAME ...]``.

A patch begins with a sentence that says what it breaks, and a line ``Test: ARGUMENTS OF PYTEST``. The tests run on a
copy of the checkout. Exit status: 0 if each mutant was caught, 1 if one lives, 2 if one cannot be applied.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TESTS_FAILED = 1
LIMIT = 300
"""Seconds for the tests of one mutant; one that hangs is caught, too."""


def try_mutant(patch: Path) -> tuple[int, str]:
    """Return the exit status that this mutant is worth, and a line about it."""
    first, test, _, *lines = patch.read_text(encoding="utf-8").splitlines(keepends=True)
    arguments = test.removeprefix("Test:").split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("sseflow", "tests", "benchmarks"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        applied = subprocess.run(
            ["git", "apply", "-"], cwd=folder, input="".join(lines), text=True, capture_output=True, check=False
        )
        if applied.returncode:
            return 2, f"{patch.stem}: cannot be applied any more: {applied.stderr.strip()}"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
        environment = {**os.environ, "PYTHONPATH": name, "GIT_DIR": name}
        try:
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return 0, f"{patch.stem}: caught, by a test that hangs"
    if run.returncode == TESTS_FAILED:
        return 0, f"{patch.stem}: caught"
    return 1, f"{patch.stem}: LIVES. {first.strip()} Nothing of {' '.join(arguments)} fails.\n{run.stdout[-2000:]}"


def main(names: list[str]) -> int:
    """Try the mutants called ``names``, or all; return the exit status."""
    patches = [patch for patch in sorted(HERE.glob("*.patch")) if not names or patch.stem in names]
    worst = 0 if patches else 2
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for status, said in pool.map(try_mutant, patches):
            print(said, flush=True)
            worst = max(worst, status)
    print(f"{len(patches)} mutants")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
