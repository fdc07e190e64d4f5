"""Ask the real CuPy for its answers to `cases`, on a machine with a GPU, and write them down.

Run ``python tests/cuda_double/record_answers.py`` in the root of the repository.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))

from cuda_double.cases import ANSWERS, CASES, outcome


def main() -> None:
    """Write the answers, with what gave them."""
    import cupy

    record = {
        "cupy": cupy.__version__,
        "numpy": np.__version__,
        "device": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "answers": {program: outcome(program, cupy) for program in CASES},
    }
    ANSWERS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
