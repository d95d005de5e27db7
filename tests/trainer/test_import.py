"""The package can be imported by users without a name, and shows what it offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import xaimoe_audio
import xaimoe_runtime

AS_NOBODY = """
import getpass, os, pwd

def no_entry(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = no_entry  # as for docker run --user 12345
"""
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.mark.skipif(os.name == "nt", reason="users have names there")
@pytest.mark.parametrize(
    "code",
    [
        "import xaimoe_audio.classifier",
        "import xaimoe_audio.cli as cli; cli._classifier()",
        "import xaimoe_export, torch._dynamo",
    ],
)
def test_a_user_without_a_name_can_import_what_needs_pytorch(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*NAMES, "TORCHINDUCTOR_CACHE_DIR")}
    code = f"{AS_NOBODY}{code}\nprint(getpass.getuser())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1_000:]
    assert done.stdout.strip() == f"uid{os.getuid()}"


def test_a_users_own_name_is_kept() -> None:
    code = "import xaimoe_audio, os; print(os.environ['USER'])"
    environment = os.environ | {"USER": "somebody"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "somebody"


def test_the_packages_show_their_public_names() -> None:
    assert dir(xaimoe_audio) == sorted(xaimoe_audio.__all__) == ["MoEAudioClassifier", "__version__"]
    assert dir(xaimoe_runtime) == sorted(xaimoe_runtime.__all__)
    assert {"Runtime", "Result", "ConfigError"} <= set(dir(xaimoe_runtime))
