"""Small changes of the source, one at a time: does a test of the room see each?

    python tests/mutation.py masks losses            every mutant of these rooms
    python tests/mutation.py training --sample 40    forty of them, drawn with --seed
    python tests/mutation.py training --again        those that survived last time and have no reason
    python tests/mutation.py parts --more --file patchcore.py --sample 20   of one file, of those not tried yet
    python tests/mutation.py --named                 the mutants of studies/mutation-named.json, which once survived

A mutant is killed when a test of its room fails, ends in an error or does not end. Results are kept in studies, in a file
mutation-ROOM.json: figures, the test that killed each mutant, and the survivors with the reason that somebody wrote beside
them in an earlier file.
The tree is copied; the parent imports the libraries once and forks, so that a trial is the tests and no import.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/coinseg")
ROOMS: dict[str, tuple[str, str]] = {
    "losses": ("explain/counterfactual/losses.py", "tests/explain/test_losses.py tests/explain/test_singla.py"),
    "counterfactual": ("explain/counterfactual/coin.py explain/counterfactual/singla.py",
                       "tests/explain/test_coin.py tests/explain/test_singla.py"),
    "networks": ("explain/counterfactual/generator.py explain/counterfactual/discriminator.py networks/layers.py",
                 "tests/networks/test_networks.py tests/explain/test_singla.py"),
    "masks": ("masks/*.py", "tests/masks/"),
    "metrics": ("metrics/overlap.py", "tests/metrics/test_overlap.py tests/masks/test_confidence.py"),
    "slices": ("data/slices/split.py data/slices/dataset.py data/slices/intensity.py data/slices/synthetic_anomaly.py",
               "tests/data/test_split.py tests/data/test_dataset.py tests/data/test_intensity.py tests/data/test_twins.py "
               "tests/data/test_synthetic_anomaly.py tests/whole_path/test_leaks.py"),
    "training": ("training/classifier.py training/coin.py training/loop.py training/schedule.py training/student.py "
                 "training/pseudo_masks.py",
                 "tests/training/test_loop.py tests/training/test_lessons.py tests/training/test_reviewed.py "
                 "tests/training/test_student.py tests/whole_path/test_classes.py"),
    "inference": ("inference/explainer.py inference/ensemble.py inference/segmenter.py inference/image_score.py",
                  "tests/inference/test_ensemble.py tests/inference/test_explainer.py tests/inference/test_segmenter.py "
                  "tests/inference/test_image_score.py::test_the_posterior_by_hand tests/masks/test_decision_flip.py "
                  "tests/inference/test_image_score.py::"
                  "test_the_share_is_that_of_the_training_images_where_batches_were_balanced"),
    "recipe": ("pipeline/recipe.py", "tests/pipeline/test_recipe.py"),
    "parts": ("parts/*.py", "tests/parts/"),
    "evaluation": ("evaluation/*.py", "tests/evaluation/"),
    "thesis": ("thesis/reproduce.py thesis/rows.py", "tests/thesis/test_rows.py tests/thesis/test_reproduce.py"),
}  # fmt: skip
"""Room -> its files below src/coinseg, and the tests that are to see their mutants, the fastest first."""
SURVIVED = "survived"
SLOW = 0.5  # seconds of a test that is left to the end
SLOWEST = 8.0  # times what the tests take unchanged: a mutant that takes longer hangs, which is seen

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        file: below src/coinseg.
        where: function or class, with the classes around it.
        old, new: the text before and after.
        number: of the mutants of this name, from 0.
        start, end: the bytes of the file that are replaced.
    """

    file: str
    where: str
    old: str
    new: str
    number: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """What stays the same when other lines change."""
        return f"{self.file}:{self.where}: {self.old} -> {self.new}" + (f" #{self.number + 1}" if self.number else "")

    def applied(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced with."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARED.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        yield ast.BinOp(node.left, COMPUTED[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
    elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2 and not any(isinstance(e, ast.Slice) for e in node.elts):
        yield type(node)(node.elts[::-1], node.ctx)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Constant(None)  # a dropped call
    elif isinstance(node, ast.Name) and node.id in OTHERS and node.id.isupper():
        yield ast.Name(OTHERS[node.id])
    elif isinstance(node, ast.Call):
        yield from of_call(node)


def of_call(node: ast.Call) -> Iterator[ast.AST]:
    """Another function of the kind; the first two arguments swapped; what is called upon, or the argument; a keyword less."""
    first, name = node.args[:2], ast.unparse(node.func).split(".")[-1]
    if name in OTHERS and not (isinstance(node.func, ast.Name) and name == "sum"):
        func = ast.Name(OTHERS[name]) if isinstance(node.func, ast.Name) else ast.Attribute(node.func.value, OTHERS[name])  # type: ignore[attr-defined]
        yield ast.Call(func, node.args, node.keywords)
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return
    if len(first) == 2 and name not in COMMUTE and ast.dump(first[0]) != ast.dump(first[1]):
        yield ast.Call(node.func, [*first[::-1], *node.args[2:]], node.keywords)
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if owner is not None and ast.unparse(owner).split(".")[0] not in MODULES:
        yield owner
    elif len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], ast.GeneratorExp | ast.Constant):
        yield node.args[0]
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in UNSEEN:
            yield ast.Call(node.func, node.args, [other for j, other in enumerate(node.keywords) if j != i])


MODULES = {"F", "coin", "losses", "math", "metrics", "ndimage", "nn", "np", "realism", "self", "singla", "torch"}
"""What a call upon is no change of a value: these are modules, and an object's own methods."""
PAIRS = ("min max", "minimum maximum", "any all", "argmin argmax", "zeros ones", "zeros_like ones_like", "sum mean", "floor ceil",
         "TRAINING VALIDATION")  # fmt: skip
OTHERS = {one: other for pair in PAIRS for one, other in (pair.split(), pair.split()[::-1])}
"""Names that are taken for one another."""
COMMUTE = {
    "max", "min", "maximum", "minimum", "isclose", "logical_or", "logical_and",
    "reconstruction", "regional_reconstruction", "total_variation_of_difference", "difference", "dice", "pooled_iou",
}  # fmt: skip
"""Functions of two values in any order; tests/explain and tests/metrics hold that the last six are."""
UNSEEN = {None, "device", "strict"}
"""Keywords that stay: a CPU alone does not tell devices apart, and `strict` refuses what callers do not do."""
SILENT = {"UserError", "ValueError", "cast", "refuse", "report", "overload"}
"""Words for users and for type checkers, and checks of what users give: each has its own tests, by what is said."""


def visited(node: ast.AST, where: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Nodes that compute, with where they are: no annotation, docstring, decorator, import or message."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    yield where or "module", node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "names", "ctx", "bases", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Raise):
                continue
            called = child.value if isinstance(child, ast.Expr) else child
            if isinstance(called, ast.Call) and ast.unparse(called.func).split(".")[-1] in SILENT:
                continue
            if (isinstance(child, ast.Subscript) and not where) or (isinstance(child, ast.keyword) and child.arg in UNSEEN):
                continue  # the name of a type, or what nobody sees
            target = isinstance(node, ast.Assign | ast.For | ast.comprehension) and field in ("targets", "target")
            if not target:
                yield from visited(child, where)


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for where, node in visited(ast.parse(source)):
        if not hasattr(node, "lineno"):
            continue
        start, end = (lines[row - 1] + column for row, column in (
            (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        ))  # fmt: skip
        for changed in changes(node):
            old, new = ast.unparse(node), ast.unparse(ast.fix_missing_locations(copy.deepcopy(changed)))
            if old == new:
                continue
            text = f"({new})" if isinstance(changed, ast.expr) and not isinstance(changed, ast.Constant | ast.Name) else new
            number, seen[where, old, new] = seen[where, old, new], seen[where, old, new] + 1
            found.append(Mutant(file, where, old, text, number, start, end))
    return found


# --- trials -----------------------------------------------------------------------------------------------------------------


class First:
    """A plugin of pytest that keeps the first test that fails and the seconds of each, and leaves what was slow to the end."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.name = ""
        self.before = seconds
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        slow: dict[Path, float] = dict.fromkeys((item.path for item in items), 0.0)
        for item in items:
            if self.before.get(item.nodeid, 0.0) > SLOW:
                slow[item.path] += self.before[item.nodeid]
        items.sort(key=lambda item: slow[item.path] if self.before.get(item.nodeid, 0.0) > SLOW else 0.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (collection)"


def tested(tree: Path, tests: list[str], limit: float, file: str, slow: bool) -> str:
    """The first test that fails in a tree, "timeout", or `SURVIVED`; in a fork, which imports coinseg from there.

    Test files are run one by one, the fast ones first, and that of `file` before others that take a tenth of its time; `slow`:
    tests that are marked so, too.
    """
    said, seconds = tree / "first.txt", tree / "seconds.json"
    said.unlink(missing_ok=True)
    before: dict[str, float] = json.loads(seconds.read_text()) if seconds.exists() else {}
    paths = [p.relative_to(tree).as_posix() for n in tests if n.endswith("/") for p in sorted((tree / n).rglob("test_*.py"))]
    paths += [name for name in tests if not name.endswith("/")]

    def cost(path: str) -> float:
        taken = sum(value for name, value in before.items() if name.startswith(path))
        return taken / 10 if Path(path).name == f"test_{Path(file).name}" else taken

    child = os.fork()
    if not child:
        try:
            os.setsid()  # so that what the tests start can be ended with it
            sys.path[:] = [str(tree / "src"), *(p for p in sys.path if not p.startswith(str(ROOT)))]
            os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
            os.chdir(tree)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            import pytest

            first, code = First(before), 0
            options = ["-n0", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", f"--basetemp={tree / 'temporary'}"]
            options += ["-m", "not learning and not packaging and not kills"] if slow else []
            for path in sorted(paths, key=cost):
                code = code or int(pytest.main([*options, path], plugins=[first]))
            said.write_text(first.name or ("" if code == 0 else f"pytest ended with {code}"))
            if code == 0:
                seconds.write_text(json.dumps(first.seconds))
        finally:
            os._exit(0)
    ends = time.monotonic() + limit
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > ends:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"
        time.sleep(0.02)
    return (said.read_text() or SURVIVED) if said.exists() else "crash"


def copied(folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in ("src", "tests", "studies", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def preloaded() -> None:
    """Import once what every trial needs; nothing of coinseg itself."""
    import hypothesis
    import kornia.augmentation
    import lightning_fabric
    import matplotlib
    import nibabel
    import pytest
    import scipy.ndimage
    import skimage.filters
    import skimage.morphology
    import timm
    import torch
    import torchmetrics

    torch.set_num_threads(1)
    del hypothesis, kornia, lightning_fabric, matplotlib, nibabel, pytest, scipy, skimage, timm, torchmetrics


def run_room(room: str, chosen: argparse.Namespace, tree: Path) -> dict[str, Any]:
    """Try the mutants of a room; the contents of studies/mutation-ROOM.json."""
    patterns, tests = (words.split() for words in ROOMS[room])
    files = sorted({path.relative_to(ROOT / PACKAGE).as_posix() for p in patterns for path in (ROOT / PACKAGE).glob(p)})
    sources = {file: (ROOT / PACKAGE / file).read_bytes() for file in files}
    mutants = [mutant for file in files for mutant in mutants_of(file, sources[file])]
    count, last = len(mutants), earlier(room)
    mutants = [mutant for mutant in mutants if mutant.file.endswith(chosen.file)]
    if chosen.again:
        open_ones = {name for name, reason in last.get("survivors", {}).items() if not reason}
        mutants = [mutant for mutant in mutants if mutant.name in open_ones]
    elif chosen.more:
        mutants = [mutant for mutant in mutants if mutant.name not in last.get("killed", {}) | last.get("survivors", {})]
    if chosen.sample and chosen.sample < len(mutants) and not chosen.again:
        mutants = random.Random(chosen.seed).sample(mutants, chosen.sample)
    (tree / "seconds.json").unlink(missing_ok=True)
    began = time.monotonic()
    if (before := tested(tree, tests, 3600, "", False)) != SURVIVED:
        sys.exit(f"{room}: the tests fail unchanged: {before}")
    limit = 30 + SLOWEST * (time.monotonic() - began)
    killed: dict[str, str] = {}
    survivors: list[str] = []
    for number, mutant in enumerate(mutants, 1):
        if chosen.minutes and time.monotonic() - began > 60 * chosen.minutes:
            mutants = mutants[: number - 1]
            break
        path = tree / PACKAGE / mutant.file
        path.write_bytes(mutant.applied(sources[mutant.file]))
        result = tested(tree, tests, limit, mutant.file, False)
        path.write_bytes(sources[mutant.file])
        if result == SURVIVED:
            survivors.append(mutant.name)
        else:
            killed[mutant.name] = result
        print(f"{room} {number}/{len(mutants)} {'SURVIVED' if result == SURVIVED else 'killed'} {mutant.name}", flush=True)
    if last and (chosen.again or chosen.more):
        tried = {mutant.name for mutant in mutants}
        survivors += [name for name in last["survivors"] if name not in tried]
        killed = last["killed"] | killed
        return last | {"mutants": count, "tried": len(killed) + len(survivors), "killed": killed, "survivors": survivors}
    return {"room": room, "mutants": count, "tried": len(mutants), "seed": chosen.seed if chosen.sample else None,
            "killed": killed, "survivors": survivors}  # fmt: skip


def earlier(room: str) -> dict[str, Any]:
    """What is kept of a room, or nothing."""
    file = ROOT / "studies" / f"mutation-{room}.json"
    return cast(dict[str, Any], json.loads(file.read_text())) if file.exists() else {}


def kept(result: dict[str, Any]) -> str:
    """Write a result, with the reasons of an earlier one, and say it in a line."""
    reasons = earlier(result["room"]).get("survivors", {})
    result["survivors"] = {name: reasons.get(name, "") for name in sorted(result["survivors"])}
    open_ones = sum(not reason for reason in result["survivors"].values())
    tried, dead = result["tried"], len(result["killed"])
    result["killed_share"] = round(dead / max(tried, 1), 4)
    file = ROOT / "studies" / f"mutation-{result['room']}.json"
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return (
        f"{result['room']}: {dead} of {tried} killed, {tried - dead - open_ones} survive with a reason, {open_ones} without one"
    )


def run_named(tree: Path) -> int:
    """Try the mutants that once survived: each has a file, the old and the new text, and its tests. How many survive?"""
    wrong = 0
    for row in json.loads((ROOT / "studies" / "mutation-named.json").read_text()):
        path, source = tree / PACKAGE / row["file"], (ROOT / PACKAGE / row["file"]).read_text()
        if source.count(row["old"]) != 1:
            print(
                f"{row['name']}: the old text stands {source.count(row['old'])} times in {row['file']}: mend its row", flush=True
            )
            wrong += 1
            continue
        path.write_text(source.replace(row["old"], row["new"]))
        result = tested(tree, row["tests"].split(), 900, row["file"], True)
        path.write_text(source)
        print(f"{row['name']}: {result}  ({row['what']})", flush=True)
        wrong += result == SURVIVED or result.startswith("pytest ended with")  # as where no test is run
    return wrong


def main() -> int:
    """Run it; 1 where a mutant survives without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", choices=[[], *ROOMS], help="rooms to mutate")
    parser.add_argument("--named", action="store_true", help="the mutants that once survived")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants of each room; 0 is all")
    parser.add_argument("--again", action="store_true", help="of these, only those that survived and have no reason")
    parser.add_argument("--more", action="store_true", help="of these, only those that were not tried yet; results are added")
    parser.add_argument("--file", default="", help="of these, only those of files whose name ends so")
    parser.add_argument("--minutes", type=float, default=0, help="begin no mutant of a room after so many; 0 is no end")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    preloaded()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        if chosen.named:
            wrong += run_named(tree)
        for room in chosen.rooms:
            result = run_room(room, chosen, tree)
            print(kept(result), flush=True)
            wrong += sum(not reason for reason in result["survivors"].values())
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
