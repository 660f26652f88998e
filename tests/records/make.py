"""Write down what a version keeps: `uv run python tests/records/make.py VERSION`.

Renders that version of `releases.toml` once for each of its engines, has it keep the users of `seed.jsonl`,
and puts what its servers then hold, and its export, into tests/records/VERSION/ENGINE/. Done once for each
version, when it is released and checked out; tests/test_records.py reads the files ever after.
"""

import sys
import tempfile
from pathlib import Path

from copier import run_copy

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from test_records import inside, prepare  # noqa: E402

import releases  # noqa: E402
from support import first_of_each_engine  # noqa: E402


def main(version: str) -> None:
    """Make the files of one version."""
    with tempfile.TemporaryDirectory(prefix="records-") as name:
        # Whoever PostgreSQL runs as gets at its files.
        Path(name).chmod(0o755)
        history = Path(name) / "history"
        releases.make_history(history)
        for engine, answers in first_of_each_engine(releases.questions_at(version)).items():
            if engine in releases.FORGETFUL:
                continue
            project = Path(name) / engine
            run_copy(str(history), project, data=answers, vcs_ref=version, defaults=True, quiet=True)
            prepare(project)
            print(f"{version}: {engine}", flush=True)
            inside(project, "suite.old.write_records", str(HERE / version / engine))


if __name__ == "__main__":
    main(sys.argv[1])
