"""The page on supervision says what the code does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from holdfast.supervision import Kind, Policy, State

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_parts_are_fresh() -> None:
    check = [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_state_cause_and_number_is_documented() -> None:
    page = (ROOT / "docs" / "supervision.md").read_text(encoding="utf-8")
    names = [state.name for state in State] + [kind.value for kind in Kind]
    names += [field.name for field in fields(Policy)]
    missing = [name for name in names if f"`{name}`" not in page]
    assert missing == []
