"""What an adapter must leave to others is found in its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import check_adapters


def test_the_adapters_keep_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_adapters.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("link.cursor['seen'] = time.time()", "time.time"),
        ("from time import time", "from time import"),
        ("began = time.monotonic()", "time.monotonic"),
        ("await asyncio.sleep(1)", "asyncio.sleep"),
        ("import logging", "import logging"),
        ("from holdfast.adapters import telegram", "import of ['telegram']"),
    ],
)
def test_what_is_not_its_business_is_named_with_its_place(
    tmp_path: Path, line: str, found: str
) -> None:
    path = tmp_path / "parrot.py"
    path.write_text(f"async def run(self, link):\n    {line}\n")
    (problem,) = check_adapters.problems(path)
    assert problem.startswith(f"parrot.py:2: {found}")


def test_the_words_of_a_date_may_be_made(tmp_path: Path) -> None:
    path = tmp_path / "parrot.py"
    path.write_text("import time\nend = time.strftime('%Y', time.gmtime(0))\n")
    assert check_adapters.problems(path) == []
