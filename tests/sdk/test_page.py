"""The page of the five SDKs quotes the programs that are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.sdk.tools import EXAMPLES

PAGE = Path(__file__).parents[2] / "docs" / "examples" / "sdks.md"

SDKS = {
    "dingtalk-stream": "dingtalk.py",
    "lark-oapi": "feishu.py",
    "qq-botpy": "qq.py",
    "python-telegram-bot": "telegram.py",
    "slack-sdk": "slack.py",
}


@pytest.mark.parametrize("sdk", SDKS)
def test_its_five_lines_are_those_of_the_program(sdk: str) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {sdk}\n")[1]
    (quoted, *_) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    lines = [line.strip() for line in quoted.splitlines() if line]
    assert len(lines) == 5
    program = (EXAMPLES / SDKS[sdk]).read_text(encoding="utf-8")
    there = iter(line.partition("  #")[0].strip() for line in program.splitlines())
    assert [line for line in lines if line not in there] == []


@pytest.mark.parametrize("sdk", SDKS)
def test_it_is_in_the_table_with_its_tests(sdk: str) -> None:
    (row,) = (
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {sdk}")
    )
    (tests,) = re.findall(r"`(tests/sdk/\w+\.py)`", row)
    assert f"`{SDKS[sdk]}`" in row
    assert (Path(__file__).parents[2] / tests).exists()
