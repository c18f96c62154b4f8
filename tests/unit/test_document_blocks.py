"""The shell blocks of the documents are found, in order, and one that fails is told."""

import subprocess
import sys

from flashsale.local.stack import ROOT
from tests.documents.__main__ import blocks, script

TEXT = """
```sh
echo one
```

<!-- not run: takes an hour -->

```sh
sleep 3600
```

```python
print("no shell")
```

```sh
curl localhost:8000/x
```
"""


def test_blocks_are_those_in_sh_and_a_reason_keeps_one_from_running():
    found = blocks(TEXT)
    assert [(block.text, block.not_run) for block in found] == [
        ("echo one\n", None),
        ("sleep 3600\n", "takes an hour"),
        ("curl localhost:8000/x\n", None),
    ]
    assert TEXT.splitlines()[found[0].line - 1] == "```sh"


def test_the_script_names_each_block_and_takes_another_port():
    text = script(blocks(TEXT), 1234)
    assert "echo one" in text
    assert "sleep" not in text
    assert "curl localhost:1234/x" in text


def test_a_block_that_fails_ends_the_command_with_1_and_is_named(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("```sh\ntrue\n```\n\n```sh\nfalse\n```\n\n```sh\ntrue\n```\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.documents", str(document)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [word for word in ("ran", "FAILED with 1", "not reached") if word in done.stdout] == [
        "ran",
        "FAILED with 1",
        "not reached",
    ]
