"""Starts the app as on a ZeroGPU Space, on a machine without CUDA.

`spaces` patches torch for a CUDA build (it reads torch.version.cuda, which is None on a CPU build) and does without a
patch where torch is not installed. So it is told so while it is imported; all else, the fork included, is its own.
"""

import sys

sys.modules["torch"] = None
import spaces  # noqa: E402, F401

del sys.modules["torch"]

if __name__ == "__main__":
    import app

    sys.exit(app.main())
