"""What people type: nothing, a word of another program, an option of another command, a path that is not there."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import coinseg
from coinseg.cli import completion, doctor
from coinseg.cli import main as cli
from coinseg.cli.command import Call
from coinseg.cli.help import START
from coinseg.cli.progress import ConsoleReport
from coinseg.cli.suggest import COMMAND_SYNONYMS, OPTION_SYNONYMS, SETTING_SYNONYMS
from coinseg.cli.talk import HEAD
from coinseg.config.parsing import setting_names
from coinseg.config.schema import METHODS, Settings
from coinseg.explain import registry
from conftest import write_images
from writers import make_run, make_scan, write_series

Words = pytest.CaptureFixture[str]


def said(capsys: Words, *words: str, code: int = 2) -> str:
    assert cli.main(list(words)) == code
    out, err = capsys.readouterr()
    return err if code else out


# --- help


def test_by_itself_it_says_what_to_do_next(capsys: Words) -> None:
    assert said(capsys, code=0) == START + "\n"
    for command in ("demo", "doctor", "inspect", "run", "segment"):
        assert f"coinseg {command}" in START


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_a_screen_with_everything_that_is_needed(command: str, capsys: Words) -> None:
    text = said(capsys, command, "--help", code=0)
    assert len(text.splitlines()) <= (40 if command == "reproduce" else 34), text
    assert max(map(len, text.splitlines())) <= 115
    for names, _ in cli.COMMANDS[command].arguments():
        assert names[0] in text or names[0].removesuffix("_path").upper() in text
    assert text == said(capsys, "help", command, code=0)


def test_help_all_has_every_setting(capsys: Words) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--help-all"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in setting_names() if f"--{name}" not in text] == []
    assert f"All {len(setting_names())} settings: coinseg run --help-all" in said(capsys, "run", "-h", code=0)


def test_the_list_of_commands(capsys: Words) -> None:
    text = said(capsys, "--help", code=0)
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in text] == []


def test_methods_are_listed_without_torch() -> None:
    assert tuple(registry.METHODS) == METHODS


# --- what was meant


def test_synonyms_lead_to_what_there_is() -> None:
    assert {*COMMAND_SYNONYMS.values()} <= {*cli.COMMANDS, "--help", "--version"}
    assert {name for names in SETTING_SYNONYMS.values() for name in names} <= {*setting_names()}
    taken = {name for command in cli.COMMANDS.values() for names, _ in command.arguments() for name in names}
    assert {*OPTION_SYNONYMS.values()} <= taken | {"-v", "-q", "--log-file"}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("train d -o x", "did you mean run?"), ("predict", "did you mean segment?"), ("segmnt", "did you mean segment?"),
        ("trian", "did you mean run?"), ("rum", "did you mean run?"), ("xyzzy", "see --help"),
        ("run d -o x --device cuda", "did you mean --engine.accelerator?"),
        ("run d -o x --epochs 5", "did you mean --classifier.steps or --coin.steps or --student.steps?"),
        ("run d -o x --size 64", "did you mean --data.size?"), ("run d -o x --force", "did you mean --overwrite?"),
        ("run d -o x --resume", "leave it out: what was begun is continued"),
        ("run d -o x --frobnicate 3", "unknown setting 'frobnicate'; required: a name that --print_config shows; see --print"),
        ("run d -o x --method lime", "rise; choose one"), ("run d -o x --method layercm", "did you mean layercam?"),
        ("segment -i a -o b --mdel c", "did you mean --model?"), ("segment a -o b --model c", "did you mean -i a?"),
        ("segment -i a -o b --model c --data.size 3", "segment takes no --data.size; required: settings that this command reads; "
         "leave it out: a trained model brings its own"),
        ("export a -o b --force", "export takes no --force; required: options of this command; did you mean --overwrite?"),
        ("export a -o b --onx", "did you mean --onnx?"),
        ("export a -o b --dicom s", "export takes no --dicom, which export-seg has; required: options of this command"),
        ("export a -o b --engine.threads 1", "leave it out: it is a setting of `run`"),
        ("run", "run was given without DATA and -o OUT; required: coinseg run my_images -o out/run"),
        ("segment -o x", "segment was given without -i INPUT and --model MODEL"),
        ("run -o x --data.classes a b data", "put DATA before --data.classes, which takes every word up to the next option"),
        ("run d -o x --data.size 64.5", "data.size is '64.5'; required: a whole number"),
        ("export-nnunet a -o b --band x", "--band is x; required: a number; mend it"),
    ],
)  # fmt: skip
def test_what_was_meant_is_said_and_never_guessed_from_afar(words: str, meant: str, capsys: Words, tmp_path: Path) -> None:
    err = said(capsys, *words.split())
    assert meant in err
    assert len(err.splitlines()) == 1
    if meant.startswith(("see", "leave")):
        assert "did you mean" not in err


@pytest.mark.parametrize(
    "form", [["-i", "DATA"], ["-i=DATA"], ["--input", "DATA"], ["--data", "DATA"], ["--data=DATA"], ["DATA"]]
)
def test_the_data_of_a_run_in_every_form(form: list[str], images: Path, capsys: Words) -> None:
    words = [word.replace("DATA", str(images)) for word in form]
    assert "cases      24 of 24 patients" in said(capsys, "inspect", *words, code=0)


@pytest.mark.parametrize("option", ["-o", "--out", "--output"])
def test_the_output_has_the_same_names_everywhere(option: str, tmp_path: Path, capsys: Words) -> None:
    scan, run = make_scan(tmp_path / "s.nii.gz"), make_run(tmp_path / "run")
    mask = tmp_path / "m.nii.gz"
    words = ["segment", "-i", str(scan), option, str(mask), "--model", str(run), "--engine.threads", "1"]
    assert cli.main([*words, "--engine.accelerator", "cpu"]) == 0
    assert mask.exists()
    assert f"'{tmp_path}' exists" not in capsys.readouterr().err
    assert "exists and is not a coinseg run" in said(capsys, "run", str(tmp_path), option, str(run.parent))


def test_one_scan_is_no_data_set(tmp_path: Path, capsys: Words) -> None:
    image = next((write_images(tmp_path / "images", patients=1) / "normal").iterdir())
    for path, what in ((make_scan(tmp_path / "s.nii.gz"), "scan"), (image, "image")):
        err = said(capsys, "inspect", str(path))
        assert f"{path} is one {what}; required: a folder or a table of labelled ones" in err
        assert "coinseg segment -i SCAN -o MASK --model RUN" in err
    series = write_series(tmp_path / "series", np.zeros((6, 5, 4), int))
    assert f"{series} is one scan" in said(capsys, "run", str(series), "-o", str(tmp_path / "out"))


# --- what is cheap comes first


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("segment -i nothing.nii.gz -o m.nii.gz --model run", "nothing.nii.gz does not exist"),
        ("segment -i s.nii.gz -o m.nii.gz --model nothing", "nothing has no model.json"),
        ("segment -i s.nii.gz -o s.nii.gz --model run", "s.nii.gz exists"),
        ("segment -i s.nii.gz -o m.nii.gz --model run --organ no.nii.gz", "no.nii.gz does not exist"),
        ("run nothing -o out", "nothing does not exist"),
        ("run s.nii.gz -o run", "run exists and is not a coinseg run"),
        ("info", ""),
    ],
)
def test_paths_are_looked_at_before_torch_is_imported(words: str, text: str, tmp_path: Path) -> None:
    make_scan(tmp_path / "s.nii.gz")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.json").write_text("{}")
    code = "import sys; from coinseg.cli.main import main; r = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(r)"
    here = os.environ | {"PYTHONPATH": str(Path(coinseg.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, *words.split()], cwd=tmp_path, text=True, capture_output=True, env=here)
    assert done.returncode == (2 if text else 0), done.stderr
    assert text in done.stderr
    assert done.stdout.splitlines()[-1] == "False"


# --- how much is said


def test_quiet_and_the_log(tmp_path: Path, images: Path, capsys: Words) -> None:
    log, cohort = tmp_path / "logs/coinseg.log", tmp_path / "cohort"
    small = ["--patients", "1", "--slices", "4", "--size", "32"]
    assert cli.main(["phantom", str(cohort), *small, "-q", "--log-file", str(log)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("phantom cohort of 1 patients")
    assert cli.main(["-v", "inspect", str(tmp_path / "nothing"), f"--log-file={log}"]) == 2
    text = log.read_text()
    assert text.startswith(HEAD)
    assert text.count(HEAD) == 1
    for part in ("coinseg phantom", "making patients: 1/1", "nothing does not exist", "Traceback"):
        assert part in text, text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-v", "-q"], "-v and -q were given"), (["--log-file"], "--log-file was given without a file"),
        (["--log-file", "-v"], "--log-file was given without a file"),
        (["--log-file", "FILE"], "is no log of coinseg; required: a new file"),
        (["--log-file", "FOLDER"], "is no log of coinseg"),
    ],
)  # fmt: skip
def test_a_log_never_replaces_what_is_no_log(words: list[str], text: str, tmp_path: Path, capsys: Words) -> None:
    scan = make_scan(tmp_path / "scan.nii.gz")
    before = scan.read_bytes()
    words = [{"FILE": str(scan), "FOLDER": str(tmp_path)}.get(word, word) for word in words]
    assert text in said(capsys, "info", *words)
    assert scan.read_bytes() == before


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_bar_and_the_time_left_are_seen_at_every_width(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with ConsoleReport(0, console) as report:
        report("coin of teacher-2", 500, 1000, {"adversarial": 1.1, "classifier": 0.108, "identity": 0.3, "cycle": 0.01, "tv": 2})
    line = next(line for line in reversed(console.file.getvalue().splitlines()) if "training COIN" in line)  # type: ignore
    assert "training COIN of teacher-2" in line
    assert "━━━" in line
    assert "500/1000" in line
    assert "left" in line


# --- a shell, a doctor, a demo


@pytest.mark.parametrize(("words", "code"), [("info >&-", 0), ("inspect nowhere >&-", 2), ("inspect nowhere >&- 2>&-", 2)])
def test_a_command_without_an_output_has_its_exit_code_and_no_traceback(words: str, code: int) -> None:
    """As a scheduler may start it: what was done in hours ended with a traceback and code 1."""
    done = subprocess.run(["sh", "-c", f"exec {sys.executable} -m coinseg {words}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
    assert ("coinseg: error: nowhere does not exist" in done.stderr) == (words == "inspect nowhere >&-")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_knows_every_command_and_setting(shell: str, tmp_path: Path) -> None:
    text = completion.script(shell, cli.COMMANDS)
    for word in (*cli.COMMANDS, "--data.size", "--engine.accelerator", "--dry-run", "--log-file"):
        assert word.removeprefix("--") in text
    if shell == "bash" and shutil.which("bash"):
        script = tmp_path / "c.sh"
        ask = "COMP_WORDS=(coinseg se); COMP_CWORD=1; _shtab_coinseg coinseg se coinseg; echo ${COMPREPLY[@]}"
        script.write_text(f"{text}\n{ask}\n")
        assert subprocess.run(["bash", script], text=True, capture_output=True).stdout.split() == ["segment"]


def test_the_doctor_says_what_is_bad(capsys: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "memory_gb", lambda: 1.0)
    assert cli.main(["doctor", "--quick"]) == 2
    out, err = capsys.readouterr()
    assert "BAD memory        1.0 GB free" in out
    assert "not in order: memory" in err
    monkeypatch.setattr(doctor, "memory_gb", lambda: None)
    found = list(doctor.findings(selftest=False))
    assert {"coinseg", "libraries", "threads", "GPU", "memory", "disk"} <= {each.name for each in found}


@pytest.mark.parametrize(
    ("version", "inside", "free"),
    [(1, False, 9.0), (1, True, 9.0), (2, False, 9.0), (2, True, 9.0), (0, False, 20.0)],
)  # fmt: skip
def test_free_memory_is_that_of_the_groups_around_and_files_at_hand_are_free(
    tmp_path: Path, version: int, inside: bool, free: float
) -> None:
    """A job of 16 GB that had read 8 GB of scans was said to have 1 GB; one of another group, or of version 1, had no limit."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 32000000 kB\nMemAvailable: 19531250 kB\n")
    kind, base = ("4:cpu,memory:", "memory") if version == 1 else ("0::", "")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"9:pids:/\n{kind}/jobs/7/step\n" if version else "9:pids:/\n0::/\n")
    # Seen from inside of a container its group is the root of what is mounted.
    group = tmp_path / "sys" / "fs" / "cgroup" / base / ("" if inside else "jobs/7")
    group.mkdir(parents=True)
    most, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    prefix = "total_" if version == 1 else ""
    if version:
        (group / f"memory.{most}").write_text("16000000000\n")
        (group / f"memory.{used}").write_text("15000000000\n")
        (group / "memory.stat").write_text(f"file 9000\n{prefix}inactive_file 5000000000\n{prefix}active_file 3000000000\n")
        (group / "step").mkdir()
        for name, text in ((most, "max\n"), (used, "1000\n"), ("stat", "")):
            (group / "step" / f"memory.{name}").write_text(text)
    assert doctor.memory_gb(tmp_path) == pytest.approx(free)
    assert doctor.memory_gb(tmp_path / "elsewhere") is None


def test_the_self_test_knows_its_masks_and_fails_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, masks = doctor.known_images(8, 0)
    assert [bool(mask.any()) for mask in masks] == [bool(label) for label in labels]
    assert images[masks].mean() > images[~masks].mean() + 0.3
    few = doctor.selftest_settings()
    settings = replace(few, classifier=replace(few.classifier, steps=1), coin=replace(few.coin, steps=1))
    monkeypatch.setattr(doctor, "selftest_settings", lambda: settings)
    monkeypatch.setattr(doctor, "IMAGES", 16)
    monkeypatch.setattr(doctor, "HELD_OUT", 4)
    assert next(iter([doctor._selftest()])).good is False


def test_the_demo_is_the_main_job_on_what_the_package_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Words
) -> None:
    calls: list[tuple[Call, dict[str, Path]]] = []

    def act(call: Call, **given: Path) -> None:
        calls.append((call, given))
        (given["out"] / "s0001").mkdir(parents=True, exist_ok=True)

    for place, name in ((cli.commands, "phantom"), (cli.stage_commands, "run")):
        monkeypatch.setattr(place, name, replace(getattr(place, name), act=act))
    for words, folder, size in (([], "demo", 64), (["--model"], "toy", 32)):
        calls.clear()
        assert cli.main(["demo", "-o", str(tmp_path), *words]) == 0
        (cohort, place), (run, given), *others = calls
        assert [given["out"].name for _, given in others] == ([] if words else ["demo-leaves"])
        assert given["data_path"] == place["out"]
        assert given["out"] == tmp_path / folder
        assert isinstance(run.settings, Settings)
        assert (run.settings.data.size, run.settings.anomaly.kind, run.settings.student.steps) == (size, "blob", 0)
        assert cohort.settings.lesions == "none"
        out = capsys.readouterr().out
        assert f"coinseg segment -i {place['out']}/s0001/ct.nii.gz -o mask.nii.gz --model {given['out']} --organ" in out
        assert ("The model is a toy" in out) == (folder == "toy")
