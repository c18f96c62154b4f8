"""What this machine allows."""

from __future__ import annotations

import shutil
import subprocess


def has_namespaces():
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") and not subprocess.run(command, capture_output=True, check=False).returncode
