#!/usr/bin/env bash
# A stranger's first half hour: the wheel in an empty environment and everything that README promises, outside of this folder.
# Minutes and megabytes of each step are printed. Needs a package index or find-links as pip is configured, and about 8 GB.
#   bash tests/stranger.sh [--quick] [FOLDER]      FOLDER is kept; without one a new folder is made and removed
# With --quick nothing is downloaded: exactly the packages that pip would bring are linked from the environment of `make`.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
quick=
if [ "${1:-}" = --quick ]; then quick=yes; shift; fi
work="${1:-$(mktemp -d)}"
mkdir -p "$work"
[ $# -gt 0 ] || trap 'rm -rf "$work"' EXIT
python="${PYTHON:-$here/.venv/bin/python}"

step() {  # step NAME COMMAND...: runs it, says how long it took, on the clock and of the CPUs, and how large the folder is then
    local name="$1" began=$SECONDS cpu TIMEFORMAT='%U %S'
    shift
    if ! cpu="$( { time "$@" >"$work/log.txt" 2>&1; } 2>&1 )"; then
        tail -n 30 "$work/log.txt"
        echo "FAILED: $name"
        exit 1
    fi
    cpu="$(awk '{printf "%d", $1 + $2 + 0.5}' <<<"$cpu")"
    printf '%-34s %5d s %5d CPU s %8s\n' "$name" $((SECONDS - began)) "$cpu" "$(du -sm "$work" | cut -f1) MB"
}

refused() {  # refused EXTRA COMMAND...: must end with 2 and name the extra
    local extra="$1" code=0
    shift
    "$@" >"$work/out.txt" 2>&1 || code=$?
    [ "$code" = 2 ] && grep -q "coinseg\[$extra\]" "$work/out.txt" || { cat "$work/out.txt"; return 1; }
}

step "wheel and source archive" "$python" -m build --no-isolation --outdir "$work/dist" "$here"
step "empty environment" "$python" -m venv "$work/venv"
if [ -n "$quick" ]; then
    step "the packages, linked" "$python" "$here/tests/lean_environment.py" "$work/venv/bin/python" coinseg
    step "pip install coinseg --no-deps" "$work/venv/bin/python" -m pip install --no-deps "$work"/dist/*.whl
    step "pip check" "$work/venv/bin/python" -m pip check
else
    step "pip install coinseg" "$work/venv/bin/python" -m pip install --constraint "$here/constraints.txt" "$work"/dist/*.whl
fi
export PATH="$work/venv/bin:$PATH"
unset PYTHONPATH
cd "$work"
mkdir -p elsewhere
cd elsewhere
step "coinseg --version" coinseg --version
step "coinseg doctor" coinseg doctor
if [ -n "${STRANGER_DEMO:-}" ]; then step "coinseg demo" coinseg demo; run=out/demo; cohort=out/phantom
else step "coinseg demo --model" coinseg demo --model; run=out/toy; cohort=out/toy-phantom; fi
scan="$(ls -d $cohort/s* | head -n 1)"
cat >images.py <<PY
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
for i in range(40):
    image, name = rng.normal(90, 12, (48, 48)), ("normal", "abnormal")[i % 2]
    image[10:24, 10:24] += 110 * (i % 2)
    path = Path("my_images", name, f"{i}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.clip(0, 255).astype("uint8")).save(path)
PY
python images.py
step "own folders to report and masks" bash -c "coinseg run my_images -o out/mine --data.size 32 --classifier.steps 60 --coin.steps 40 \
    --student.steps 0 && test -s out/mine/report.html && test -s out/mine/masks/index.csv"
step "segment a scan" coinseg segment -i "$scan/ct.nii.gz" -o mask.nii.gz --model $run \
    --organ "$scan/segmentations/kidney_left.nii.gz" "$scan/segmentations/kidney_right.nii.gz"
step "segment a folder of scans" coinseg segment -i $cohort -o masks --model $run
step "export and segment again" bash -c "coinseg export $run -o model && coinseg segment -i $cohort -o masks2 --model model"
cat >example.py <<PY
import coinseg

run = coinseg.load("$run")
result = run.segment("$scan/ct.nii.gz", organ=["$scan/segmentations/kidney_left.nii.gz"])
assert result.mask.dtype == bool and result.mask.ndim == 3
print(int(result.mask.sum()), "voxels")
PY
step "the Python example" python example.py
step "an extra is refused by its name" refused attribution coinseg run $cohort -o x --method layercam --anomaly.kind blob
step "a table to fill in" coinseg inspect $cohort --template labels.csv
step "shell completion" coinseg completion bash
[ -z "$(cd "$here" && git status --porcelain -- src docs 2>/dev/null)" ] || echo "note: the checkout has changes that are not committed"
if "$python" -c "import mkdocs" 2>/dev/null; then
    NO_MKDOCS_2_WARNING=1 step "the documentation site" "$python" -m mkdocs build --quiet --strict --config-file "$here/mkdocs.yml"
fi
echo "done: $(ls masks/*/*.nii.gz | wc -l) masks"
