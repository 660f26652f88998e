"""The examples show what is rendered now."""

import sys
from pathlib import Path

import examples
from support import ROOT, clean_env, run

RENDER = "import sys; from pathlib import Path; import examples; examples.render(Path(sys.argv[1]))"


def test_examples_are_not_stale(tmp_path: Path) -> None:
    """A project of each backend, as the template renders it, also where git has not been told who commits."""
    nobody = tmp_path / "gitconfig"
    nobody.write_text("[user]\nuseConfigOnly = true\n")
    fresh = tmp_path / "examples"
    fresh.mkdir()
    env = clean_env(GIT_CONFIG_GLOBAL=str(nobody), HOME=str(tmp_path))
    done = run(sys.executable, "-c", RENDER, fresh, cwd=ROOT / "tests", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(fresh.iterdir())) > 1
    assert examples.stale(fresh) == [], "run: uv run python tests/examples.py"
