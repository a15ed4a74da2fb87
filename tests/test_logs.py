"""The log of a process of the Space."""

import subprocess
import sys

from .server import ROOT


def test_a_librarys_warning_is_logged_by_its_kind_alone():
    code = "import warnings; from sd_space.logs import set_up_logs; set_up_logs(); warnings.warn('what was sent')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = run.stderr.splitlines()
    assert line.endswith("WARNING sd_space.logs: a library warns: UserWarning")
