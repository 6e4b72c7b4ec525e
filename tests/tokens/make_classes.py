"""Write ``src/tokens/unicode.rs``: the character classes of the splitting pattern in the ``tokenizers`` package.

Run ``python tests/tokens/make_classes.py`` when a new version of that package has a newer version of Unicode, which
``test_every_scalar_value_is_split_and_normalized_as_in_the_reference`` detects.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Regex, __version__, pre_tokenizers

TARGET = Path(__file__).resolve().parents[2] / "src" / "tokens" / "unicode.rs"
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(pattern: str) -> list[tuple[int, int]]:
    """Return the first and last scalar values of each run that ``pattern`` matches."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    found: list[tuple[int, int]] = []
    for scalar in SCALARS:
        if not split.pre_tokenize_str(chr(scalar)):
            if found and found[-1][1] == scalar - 1:
                found[-1] = (found[-1][0], scalar)
            else:
                found.append((scalar, scalar))
    return found


def table(name: str, doc: str, pattern: str) -> str:
    entries = [f"(0x{first:X}, 0x{last:X})," for first, last in ranges(pattern)]
    lines, line = [], "   "
    for entry in entries:
        if len(line) + len(entry) + 1 > 118:
            lines.append(line)
            line = "   "
        line += f" {entry}"
    body = "\n".join([*lines, line])
    return f"/// {doc}.\n#[rustfmt::skip]\npub(super) const {name}: [(u32, u32); {len(entries)}] = [\n{body}\n];\n"


def main() -> int:
    head = (
        "//! Character classes of the splitting pattern, as first and last scalar values of runs.\n"
        "//!\n"
        f"//! Written by `tests/tokens/make_classes.py` from what `tokenizers` {__version__} matches (Unicode 16).\n"
    )
    parts = [
        head,
        table("LETTERS", r"`\p{L}`", r"\p{L}"),
        table("NUMBERS", r"`\p{N}`", r"\p{N}"),
        table("SPACES", r"`\s`", r"\s"),
    ]
    TARGET.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
