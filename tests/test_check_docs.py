"""Links and generated tables of the documents."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_documents_are_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    import check_docs

    code = check_docs.main()
    assert (code, capsys.readouterr().out.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a](b.md)", None),
        ("[a](b.md#two-words)", None),
        ("[a](b.md#twice-1)", None),
        ("[a](#here)\n\n# Here\n", None),
        ("[a](https://example.org/nowhere)", None),
        ("`[a](gone.md)`\n\n```sh\n[a](gone.md)\n```\n", None),
        ("[a](gone.md)", "no such file"),
        ("![a](gone.png)", "no such file"),
        ("[a](b.md#three-words)", "no such heading"),
        ("[a](../../outside.md)", "leaves the repository"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, text: str, says: str | None) -> None:
    import check_docs

    (tmp_path / "b.md").write_text("# Two `words`\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "a.md"
    page.write_text(text)
    found = list(check_docs.broken_links(page, tmp_path))
    assert (found == []) if says is None else (len(found) == 1 and says in found[0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.py", b"x = 1\n", None),
        ("empty.typed", b"", None),
        ("a.npy", b"\x93NUMPY", None),
        ("a.py", b"x = 1 \n", "line 1 ends with blanks"),
        ("a.py", b"x = 1", "exactly one line feed"),
        ("a.py", b"x = 1\n\n", "exactly one line feed"),
        ("a.py", b"x = 1\r\n", "carriage return"),
        ("a.dat", b"\xff\xfe", "not UTF-8"),
        ("a.toml", b"x = \n", "cannot be read"),
        ("a.yaml", b"x: [\n", "cannot be read"),
        ("a.npy", b"0" * 250_001, "250001 bytes"),
    ],
)
def test_a_file_in_disorder_is_named(tmp_path: Path, name: str, content: bytes, says: str | None) -> None:
    import check_files

    path = tmp_path / name
    path.write_bytes(content)
    found = list(check_files.problems(path))
    assert (found == []) if says is None else any(says in f for f in found)


def test_every_file_of_the_repository_is_in_order() -> None:
    import check_files

    assert check_files.main([]) == 0
