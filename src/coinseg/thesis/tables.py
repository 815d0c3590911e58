"""The tables of the thesis: scores of every method over several seeds, as Markdown, CSV, JSON and TeX.

A record has the scores of one method on one data set under one protocol, one value for each seed, None where there is none:

    {"method": "A", "title": "Singla et al.", "settings": "skips 0", "protocol": "replica", "set": "phantom-blob",
     "seeds": 3, "scores": {"iou": [0.61, 0.60, None]}, "thesis": {"iou": 0.02}, "seconds": [310.0, 305.2, 298.7]}
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.errors import UserError
from coinseg.runtime.files import csv_text, write_json, write_text

Record = Mapping[str, Any]
Columns = Mapping[str, tuple[str, str, str]]  # Score -> (heading, best direction "up", "down" or "", format of a number)
Cell = tuple[str, bool]  # Text, and whether it is bold
ABOUT = ("method", "title", "settings", "protocol", "set", "seeds")
KINDS = ("md", "csv", "json", "tex")
ARROWS = {"up": "↑", "down": "↓", "": ""}
TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "±": r"$\pm$",
    "–": "--", "—": "---", "−": "$-$",
    "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "≠": r"$\neq$", "≈": r"$\approx$", "²": "$^2$",
    "λ": r"$\lambda$", "τ": r"$\tau$", "α": r"$\alpha$", "β": r"$\beta$", "σ": r"$\sigma$", "…": r"\ldots{}",
}  # fmt: skip
"""Characters that TeX does not print as they are without a package."""


def _clean(value: Any) -> Any:
    """A value in plain Python types, with None for numbers that are not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _clean(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moments(values: Sequence[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (over n - 1) and number of the values that are not None."""
    known = [float(value) for value in values if value is not None]
    # Not fmean: it makes 0.6999999999999998 of three times 0.7, and equal means must be equal.
    return statistics.mean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None, len(known)


def summarise(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One flat row for each record, in the same order; `ValueError` where a score has not one value for each seed.

    A row has the fields `ABOUT`, `seconds_mean`, and for every score `<score>_mean`, `_sd` (over n - 1, None with fewer than two
    values), `_n` (seeds with a value) and, where the thesis has one, `_thesis`.
    """
    rows = []
    for record in map(_clean, records):
        row, theirs = {name: record[name] for name in ABOUT}, record.get("thesis") or {}
        for score in dict.fromkeys([*record["scores"], *theirs]):
            values = record["scores"].get(score, [None] * record["seeds"])
            if len(values) != record["seeds"]:
                raise ValueError(f"{record['method']}: {len(values)} values of {score} for {record['seeds']} seeds")
            row |= zip((f"{score}_mean", f"{score}_sd", f"{score}_n"), _moments(values), strict=True)
            if theirs.get(score) is not None:
                row[f"{score}_thesis"] = theirs[score]
        rows.append(row | {"seconds_mean": _moments(record.get("seconds") or [])[0]})
    return rows


def orderings(
    records: Iterable[Record], score: str, pairs: Sequence[tuple[str, str, str]], direction: str = "up"
) -> list[dict[str, Any]]:
    """Which orderings of the thesis hold, for every protocol, set and pair.

    `holds`: the mean of `better` is strictly better (None: no value); `by`: how much; `seeds_held` of the `seeds` with both.

    Args:
        records: see above; every protocol and set is compared by itself.
        score: the score to compare.
        pairs: (worse method, better method, the statement in words).
        direction: "up" when a higher score is better, else "down".
    """
    sign, groups = {"up": 1, "down": -1}[direction], _groups(map(_clean, records))
    lines = []
    for (protocol, data), group in groups.items():
        values = {record["method"]: record["scores"].get(score, []) for record in group}
        for worse, better, statement in pairs:
            low, high = values.get(worse, []), values.get(better, [])
            mean, higher = _moments(low)[0], _moments(high)[0]
            by = None if mean is None or higher is None else sign * (higher - mean)
            each = [sign * (b - a) > 0 for a, b in zip(low, high, strict=False) if a is not None and b is not None]
            line = {"protocol": protocol, "set": data, "score": score, "statement": statement, "worse": worse, "better": better}
            lines.append(line | {"holds": None if by is None else by > 0, "by": by, "seeds_held": sum(each), "seeds": len(each)})
    return lines


def _groups(rows: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Rows by (protocol, set), in the order of their first row; every method once in each group."""
    grouped: dict[str, dict[str, list[Record]]] = {}
    for row in rows:
        group = grouped.setdefault(row["protocol"], {}).setdefault(row["set"], [])
        if any(row["method"] == other["method"] for other in group):
            raise ValueError(f"{row['method']} comes twice: protocol {row['protocol']}, set {row['set']}")
        group.append(row)
    return {(protocol, data): group for protocol, sets in grouped.items() for data, group in sets.items()}


def _competes(row: Record, direction: str) -> bool:
    """Whether a row may be the best: less of what is wrong is no merit of one that meets no lesion, or turns f nowhere."""
    known = [value for score in ("iou", "flip_rate") if (value := row.get(f"{score}_mean")) is not None]
    return direction == "up" or not known or round(known[0], 3) > 0


def _best(group: Sequence[Record], score: str, direction: str, form: str) -> str | None:
    """The best mean as it is printed, so that equal texts are equally bold; none where more is better and all print as 0."""
    means = [mean for row in group if (mean := row.get(f"{score}_mean")) is not None and _competes(row, direction)]
    if not (means and direction):
        return None
    best = format({"up": max, "down": min}[direction](means), form)
    return None if direction == "up" and best == format(0.0, form) else best


def _cell(row: Record, score: str, form: str, best: str | None, seeds: int) -> Cell:
    mean, deviation = row.get(f"{score}_mean"), row.get(f"{score}_sd")
    if mean is None:
        return "–", False
    words = format(mean, form) + ("" if deviation is None else f" ± {format(deviation, form)}")
    fewer = "" if (n := row.get(f"{score}_n", seeds)) == seeds else f" (n = {n})"
    return words + fewer, format(mean, form) == best


def _grid(group: Sequence[Record], columns: Columns) -> tuple[list[str], list[list[Cell]]]:
    """Headings and cells of a table; a column without any number is left out."""
    seeds = max(row["seeds"] for row in group)
    about = [(str(row["method"]), "; ".join(str(row[name]) for name in ("title", "settings") if row[name])) for row in group]
    headings, rows = ["method", "what it is"], [[(words, False) for words in pair] for pair in about]
    for score, (heading, direction, form) in columns.items():
        if all(row.get(f"{score}_mean") is None and row.get(f"{score}_thesis") is None for row in group):
            continue
        best = _best(group, score, direction, form)
        headings.append(f"{heading} {ARROWS[direction]}".strip())
        for line, row in zip(rows, group, strict=True):
            line.append(_cell(row, score, form, best if _competes(row, direction) else None, seeds))
        if any(f"{score}_thesis" in row for row in group):
            headings.append("thesis")
            for line, row in zip(rows, group, strict=True):
                theirs = row.get(f"{score}_thesis")
                line.append(("" if theirs is None else f"({format(theirs, form)})", False))
    return headings, rows


def _seeds(group: Sequence[Record]) -> str:
    """The number of seeds, in words."""
    fewest, most = (pick(row["seeds"] for row in group) for pick in (min, max))
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return "1 seed" if most == 1 else f"{number} seeds, mean ± sample standard deviation"


def _md(words: str) -> str:
    return re.sub(r"([\\|*_`<\[\]~])", r"\\\1", " ".join(words.split()))


def _tex(words: str) -> str:
    return "".join(TEX.get(character, character) for character in " ".join(words.split()))


def _bar(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(title: str, rows: Sequence[Record], columns: Columns, notes: Sequence[str]) -> str:
    lines, previous = [f"# {_md(title)}", ""], None
    for (protocol, data), group in _groups(rows).items():
        lines += [] if protocol == previous else [f"## Protocol: {_md(protocol)}", ""]
        previous, (headings, cells) = protocol, _grid(group, columns)
        lines += [f"Set {_md(data)}; {_seeds(group)}.", "", _bar(map(_md, headings))]
        lines += [_bar(["---", "---", *["---:"] * (len(headings) - 2)])]
        lines += [_bar(f"**{_md(words)}**" if bold else _md(words) for words, bold in row) for row in cells] + [""]
    lines += [f"- {_md(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _latex(title: str, rows: Sequence[Record], columns: Columns, notes: Sequence[str]) -> str:
    r"""TeX for \input; the document loads booktabs."""
    lines = [r"% \usepackage{booktabs}"]
    for (protocol, data), group in _groups(rows).items():
        headings, cells = _grid(group, columns)
        caption = f"{title.rstrip('.')}. Protocol: {protocol}; set {data}; {_seeds(group)}."
        lines += [r"\begin{table}[htbp]", r"\centering\small", rf"\caption{{{_tex(caption)}}}"]
        lines += [rf"\begin{{tabular}}{{lp{{0.3\linewidth}}{'r' * (len(headings) - 2)}}}", r"\toprule"]
        # Braces before the first cell: TeX would read a leading [ or * as belonging to the \\ of the line above.
        lines += ["{}" + " & ".join(map(_tex, headings)) + r" \\", r"\midrule"]
        for row in cells:
            lines.append("{}" + " & ".join(rf"\textbf{{{_tex(w)}}}" if bold else _tex(w) for w, bold in row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    # Notes stand inside the last table, because TeX moves tables.
    lines[-2:-2] = [rf"\par\smallskip {_tex(note)}" for note in notes]
    return "\n".join(lines)


def write_table(
    folder: Path, stem: str, title: str, records: Sequence[Record], columns: Columns, notes: Sequence[str] = ()
) -> list[Path]:
    """Write stem.md, stem.csv, stem.json and stem.tex; returns the four paths.

    Args:
        folder: receives the files.
        stem: their name without suffix.
        title: above the table.
        records: see above; at least one.
        columns: the scores in Markdown and TeX, in order, the best mean of each in bold; CSV and JSON hold all scores.
        notes: sentences under the table.
    """
    if not records:
        raise UserError(f"no results for {stem}", "results of at least one method", "finish the runs first")
    rows = summarise(records)
    whole = {"table": stem, "title": title, "rows": rows, "per_seed": _clean(list(records)), "notes": list(notes)}
    names = list(dict.fromkeys(name for row in rows for name in row))
    csv, shown = csv_text([names, *([row.get(name) for name in names] for row in rows)]), (title, rows, columns, notes)
    for kind, text in {"md": _markdown(*shown), "csv": csv, "tex": _latex(*shown)}.items():
        write_text(folder / f"{stem}.{kind}", text)
    write_json(folder / f"{stem}.json", whole)
    return [folder / f"{stem}.{kind}" for kind in KINDS]
