"""What the entry points have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vitruvian import cli, spec
from vitruvian.errors import SpecError, VitruvianError


def run(verb: str, about: str | None) -> None:
    """Run one verb of `vitruvian` on the Classifier that `--spec` names, on the Ray cluster that runs this job.

    What else the job is given, the verb gets.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True, help="the file that declares the classifier")
    known, more = parser.parse_known_args()
    file: Path = known.spec
    try:
        _lasts(spec.load(file))
    except VitruvianError as e:
        sys.exit(str(e))
    sys.argv = ["vitruvian", verb, "-f", str(file), *more]
    cli.main()


def _lasts(classifier: spec.Classifier) -> None:
    """Raise `SpecError` where what is made would go with the job's working folder."""
    artifacts = classifier.artifacts
    if "://" not in artifacts and not Path(artifacts).is_absolute():
        hint = "use s3://BUCKET/PREFIX, or an absolute path that all nodes share"
        raise SpecError(
            f"{artifacts} lies in the job's working folder, which Ray deletes", where="spec.artifacts", hint=hint
        )
