"""Fences, tables and commands are found in pages."""

from __future__ import annotations

import re

from testing.documents import fences, last_column, lines_to_type

PAGE = """Type `run this`, or `that`:

```sh run
run \\
  here
```

| quirk | field |
|---|---|
| one | `first` |
| two | `second` |

```python
print("`run not`")
```
"""


def test_fences_are_told_by_their_language() -> None:
    assert fences(PAGE, "sh") == ["run \\\n  here\n"]
    assert fences(PAGE, "python") == ['print("`run not`")\n']
    assert fences(PAGE, "text") == []


def test_the_last_column_of_a_table_is_read() -> None:
    assert last_column(PAGE, "| quirk") == ["first", "second"]


def test_commands_come_from_shell_fences_and_from_running_text() -> None:
    assert lines_to_type([PAGE, "`run that`"], re.compile("`(run [^`]+)`")) == [
        "run    here",
        "run this",
        "run that",
    ]
