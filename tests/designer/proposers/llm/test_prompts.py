"""Prompts: readable files, replaceable one by one, checked before a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.proposers.llm.prompts import MARKS, NAMES, PromptError, fill, read_prompts


@pytest.mark.parametrize("folder", ["", "small"])
def test_every_prompt_of_the_package_can_be_filled(folder: str) -> None:
    for name, text in read_prompts(folder, Path()).items():
        filled = fill(text, {mark: f"<{mark}>" for mark in MARKS[name]})
        assert "{{" not in filled


def test_no_prompt_gives_the_published_designs_away() -> None:
    for folder in ("", "small"):
        text = "\n".join(read_prompts(folder, Path()).values()).lower()
        assert not [word for word in ("head-room", "head_room", "headroom", "0.6", "shortest") if word in text]


def test_a_folder_replaces_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "supervisor.md").write_text("Ask about {{objective}}.")
    prompts = read_prompts("mine", tmp_path)
    assert prompts["supervisor"] == "Ask about {{objective}}."
    assert prompts["analyst"] == read_prompts("", Path())["analyst"]
    assert set(prompts) == set(NAMES)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("boss.md", "", "boss.md is none of researcher.md"),
        ("supervisor.md", "{{code}}", r"supervisor.md: prompts: {{code}} is not known; one of baselines"),
        ("analyst.md", "\udcff", "analyst.md"),
    ],
)
def test_a_bad_folder_is_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PromptError) as error:
        read_prompts(str(tmp_path), Path())
    assert message in str(error.value)
