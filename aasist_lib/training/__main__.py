"""Training in several processes: `torchrun --nproc-per-node 2 -m aasist_lib.training`.

Every process reads params.yaml and `features/`. The result is the checkpoint of the last epoch in `build/checkpoints/`,
from which `dvc repro train` writes network and notebook without training again.
"""

import json
import os
import sys
from pathlib import Path

from aasist_lib.base import paths
from aasist_lib.base.errors import UserError
from aasist_lib.base.progress import NOBODY


def main(arguments: list[str] | None = None) -> int:
    """Train; `arguments` may name a JSON file of arguments of `training.fit`, in place of params.yaml."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        call = json.loads(Path(arguments[0]).read_text(encoding="utf-8")) if arguments else _stage()
        from aasist_lib import training

        if os.environ.get("RANK", "0") != "0":
            os.environ["AASIST_TERMINAL"] = NOBODY  # one process shows progress
        training.fit(output=None, **call)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(error, file=sys.stderr)
        return 2
    return 0


def _stage() -> dict:
    """The arguments that notebooks/20_train.ipynb gives."""
    from aasist_lib import params

    root, names = paths.root(), ("model", "train", "augment", "seed", "threads", "compute")
    given = {name: params.read(name) for name in names}
    return given | {"store": str(root / "features"), "checkpoints": str(root / "build/checkpoints")}


if __name__ == "__main__":
    sys.exit(main())
