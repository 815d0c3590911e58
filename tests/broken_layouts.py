"""What can be done to a valid example of a layout, and what is answered then (`tests/data/test_broken_layouts.py`)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from examples import CASES, LPS, hounsfield, labelled, text
from writers import write_series

Break = Callable[[Path], object]

# --- What can be done to a folder ---------------------------------------------------------------------------------


def gone(*names: str) -> Break:
    return lambda root: [(root / name).unlink() for name in names]


def written(name: str, content: str, encoding: str = "utf-8") -> Break:
    return lambda root: text(root / name, content, encoding)


def replaced(name: str, old: str, new: str) -> Break:
    return lambda root: text(root / name, (root / name).read_text("utf-8-sig").replace(old, new))


def renamed(name: str, other: str) -> Break:
    return lambda root: (root / name).rename(root / other)


def volume(name: str, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Break:
    """The volume with other voxels (as stored) or another affine."""

    def act(root: Path) -> None:
        image = nib.load(root / name)
        nib.save(nib.Nifti1Image(*change(np.asarray(image.dataobj), image.affine)), root / name)

    return act


def cropped(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return voxels[1:], affine


def moved(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return voxels, affine + np.array([[0, 0, 0, 4]] * 3 + [[0] * 4])


def in_channels(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([voxels] * 4, -1), affine


def interpolated(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return voxels * np.float32(0.63), affine


def as_floats(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return voxels * np.float32(1.0001), affine


def cut(name: str) -> Break:
    """The file without its second half."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size // 2])


def cut_series(root: Path) -> None:
    cut(sorted((root / "p1").iterdir())[0].relative_to(root).as_posix())(root)


def emptied(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def beside(name: str) -> Break:
    """What macOS leaves on other disks."""
    return lambda root: (root / name).with_name(f"._{(root / name).name}").write_bytes(b"\0\5\x16\7")


def nothing_but(name: str) -> Break:
    return lambda root: (emptied(root), (root / name).mkdir())


# --- What is said ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A `UserError` with these three parts, each a regular expression."""

    got: str
    required: str
    do: str


@dataclass(frozen=True)
class Said:
    """A line among the problems; empty where nothing may be said that the valid example does not say."""

    line: str = ""


KNOWN = "totalsegmentator .* nnunet .* decathlon .* kits .* csv .* folders .* dicom"
COLUMN = r"a column image_id or case or case_id"
SLICES = "".join(f"s{i},{z},{z % 2}\n" for i in range(CASES) for z in range(4))
ABNORMAL = "".join(f"p{i},1\n" for i in range(CASES))
LISTED = "file,label\nmade/normal/i00.png,0\nmade/abnormal/i01.png,1\nmade/normal/i04.png,0\nmade/abnormal/i05.png,1\n"

FORTY = [f"c{number}" for number in range(40)]


def classes_in(columns: dict[str, str]) -> Break:
    """A table of the images i00, i01, i04 and i05 with a column for each class: its labels of them."""
    images = ["made/normal/i00.png", "made/abnormal/i01.png", "made/normal/i04.png", "made/abnormal/i05.png"]
    rows = [",".join([image, *labels]) for image, labels in zip(images, zip(*columns.values(), strict=True), strict=True)]
    return written("labels.csv", "\n".join([f"file,{','.join(columns)}", *rows]) + "\n")


def in_folders(classes: dict[str, int]) -> Break:
    """New images in a folder for each class, so many; the normal ones stay."""

    def act(root: Path) -> None:
        for name, count in classes.items():
            (root / name).mkdir()
            for number in range(count):
                shade = np.random.default_rng([len(name), *name.encode(), number]).integers(0, 255, (12, 12))
                Image.fromarray(shade.astype(np.uint8)).save(root / name / f"{name}{number}.png")

    return act


ROWS: list[tuple[str, str, Break, dict[str, object], Refused | Said]] = [
    # TotalSegmentator
    ("totalsegmentator", "no image", gone("s1/ct.nii.gz"), {}, Said("^s1: skipped, no ct.nii.gz$")),
    ("totalsegmentator", "no organ mask", gone("s1/segmentations/kidney_left.nii.gz"), {}, Said("^s1: skipped, no mask of kidney_left$")),
    ("totalsegmentator", "no lesion mask and no label", lambda r: (gone("s1/segmentations/tumor.nii.gz")(r), replaced("labels.csv", "s1,", "s2,")(r)), {}, Said("^no slice of s1 is used: without a label")),
    ("totalsegmentator", "no label and no mask to make one", gone("labels.csv", "s1/segmentations/tumor.nii.gz"), {}, Said("^s1: no mask of tumor to make its labels from$")),
    ("totalsegmentator", "no labels at all", gone("labels.csv"), {"lesion": []}, Refused("no case has an image label or a lesion mask", "image labels of both classes", "data.lesion, or inject")),
    ("totalsegmentator", "unknown organ", gone(), {"organ": ["kidney_leftt"]}, Refused("data.organ names 'kidney_leftt', which no scan has", r"a known class \(the nearest: kidney_left\)", "correct the name, or set data.organ_from")),
    ("totalsegmentator", "unknown lesion", gone(), {"lesion": ["zzz"]}, Refused("data.lesion names 'zzz'", r"there are: kidney_left, tumor\)", "correct the name")),
    ("totalsegmentator", "no meta.csv", gone("meta.csv"), {}, Said("^meta.csv is missing: scans of every study type are kept$")),
    ("totalsegmentator", "meta.csv without the column", replaced("meta.csv", "study_type", "study"), {}, Said("^meta.csv has no columns image_id and study_type")),
    ("totalsegmentator", "meta.csv does not know a scan", replaced("meta.csv", "s1;", "t1;"), {}, Said("^s1: skipped, not listed in meta.csv$")),
    ("totalsegmentator", "meta.csv of other studies", replaced("meta.csv", "abdomen", "thorax"), {}, Refused("has a study_type with 'abdomen'", "a word that occurs in meta.csv", "set data.study_type")),
    ("totalsegmentator", "meta.csv with colons", replaced("meta.csv", ";", ":"), {}, Said("^meta.csv has no columns image_id and study_type")),
    ("totalsegmentator", "labels with BOM and Windows line ends", written("labels.csv", ("image_id;slice;label\n" + SLICES.replace(",", ";")).replace("\n", "\r\n"), "utf-8-sig"), {}, Said()),
    ("totalsegmentator", "labels of an unknown scan", replaced("labels.csv", "s1,", "t1,"), {}, Said("^labels.csv names 1 case \\(rows 6, 7, 8 and 1 more\\) that the data do not have$")),
    ("totalsegmentator", "labels of one class", written("labels.csv", "image_id,label\ns0,1\ns1,1\ns2,1\ns3,1\n"), {"lesion": []}, Refused("0 normal and 4 abnormal labels", "labels of both classes", "add the other class")),
    ("totalsegmentator", "an organ in few pixels", volume("s1/segmentations/kidney_left.nii.gz", lambda v, a: (v * 0, a)), {}, Said("^no slice of s1 is used: without a label, or with too few organ pixels$")),
    # Tables beside the scans, as nnU-Net, the Decathlon and KiTS have them too
    ("totalsegmentator", "labels without the column of cases", replaced("labels.csv", "image_id", "name"), {}, Refused("labels.csv has the columns name, slice, label", COLUMN, "rename one")),
    ("totalsegmentator", "labels with colons", replaced("labels.csv", ",", ":"), {}, Refused(r"has the columns image_id:slice:label", COLUMN, "rename one")),
    ("totalsegmentator", "a bad label", replaced("labels.csv", "s0,0,0", "s0,0,maybe"), {}, Refused("row 2 of .*labels.csv has a label that is not known", "0, 1, normal, abnormal, yes, .* or nothing", "correct the row")),
    ("totalsegmentator", "a label twice, the same", replaced("labels.csv", "s0,0,0\n", "s0,0,0\ns0,0,0\n"), {}, Said()),
    ("totalsegmentator", "a label twice, another", replaced("labels.csv", "s0,0,0\n", "s0,0,0\ns0,0,1\n"), {}, Refused("row 3 of .* contradicts an earlier row", "one label per slice", "correct the row")),
    ("totalsegmentator", "a row that is too long", replaced("labels.csv", "s0,0,0\n", "s0,0,0,9\n"), {}, Refused("row 2 of .* has 4 cells and the header 3", "no more cells", "put text with a separator in quotes")),
    ("totalsegmentator", "an empty table", written("labels.csv", ""), {}, Refused("labels.csv has no rows", "a line of column names and a row", "fill or remove it")),
    ("totalsegmentator", "a table of a header", written("labels.csv", "image_id,label\n"), {}, Refused("labels.csv has no rows", "a row for each case", "fill or remove it")),
    ("totalsegmentator", "a table in another code", written("labels.csv", "image_id,label,note\ns0,1,Müller\n", "latin-1"), {}, Refused("labels.csv cannot be read as a table", "UTF-8 CSV", "save it as UTF-8 CSV")),
    # nnU-Net (tests/data/test_dicom.py has what can be wrong with dataset.json)
    ("nnunet", "no image", gone("imagesTr/c1_0000.nii.gz"), {}, Said("^labelsTr has label maps of c1: there is no such image in imagesTr$")),
    ("nnunet", "no mask", gone("labelsTr/c1.nii.gz"), {}, Said("^c1: skipped, no labelsTr/c1.nii.gz to find the organ in$")),
    ("nnunet", "unknown lesion", gone(), {"lesion": ["malign"]}, Refused("data.lesion names 'malign', which dataset.json does not have", "the nearest: malignant", "correct data.lesion")),
    ("nnunet", "no lesion named", gone(), {"lesion": []}, Refused("data.lesion is empty and .* no labels.csv", "the label that makes a slice abnormal", "set data.lesion, or inject")),
    ("nnunet", "nobody abnormal", gone(), {"lesion": ["kidney"], "organ": []}, Refused("all 16 usable slices are abnormal", "both normal and abnormal slices", "add the other class")),
    ("nnunet", "labels of version 1, listed like the Decathlon's", written("dataset.json", '{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "kidney", "2": "malignant"}, "training": [{"image": "./imagesTr/c0.nii.gz", "label": "./labelsTr/c0.nii.gz"}]}'), {}, Said()),
    ("nnunet", "a label value that no mask has", lambda r: (text(r / "labels.csv", "case,label\nc0,0\nc1,1\nc2,0\nc3,1\n"), [volume(f"labelsTr/c{i}.nii.gz", lambda v, a: (np.minimum(v, 1), a))(r) for i in range(CASES)]), {"organ": ["kidney"]}, Refused(r"no lesion mask has the value 2 of data.lesion \(there are: 0, 1\)", "label values that the masks have", "correct data.lesion")),
    ("nnunet", "images without their channel", lambda r: [p.rename(p.with_name(p.name.replace("_0000", ""))) for p in sorted((r / "imagesTr").iterdir())], {}, Refused("no layout is recognised in .* imagesTr, labelsTr; files: 1 x .json", KNOWN, "rearrange the data")),
    # Decathlon
    ("decathlon", "no image", gone("imagesTr/liver_1.nii.gz"), {}, Said("^liver_1: skipped, no liver_1.nii.gz$")),
    ("decathlon", "no mask", gone("labelsTr/liver_1.nii.gz"), {}, Said("^liver_1: skipped, no labelsTr/liver_1.nii.gz to find the organ in$")),
    ("decathlon", "an image that is not listed", renamed("imagesTs/liver_9.nii.gz", "imagesTr/liver_9.nii.gz"), {}, Said("^imagesTr: liver_9.nii.gz left out, not listed in dataset.json$")),
    ("decathlon", "unknown lesion", gone(), {"lesion": ["tumour"]}, Refused("data.lesion names 'tumour', which dataset.json does not have", r"there are: cancer, liver\)", "correct data.lesion")),
    ("decathlon", "no lesion named", gone(), {"lesion": []}, Refused("data.lesion is empty and .*dataset.json names liver, cancer", "the label that makes a slice abnormal", "set data.lesion")),
    ("decathlon", "dataset.json cut off", cut("dataset.json"), {}, Refused("dataset.json cannot be read as JSON", "JSON as nnU-Net knows it", "correct dataset.json")),
    ("decathlon", "an entry without its label map", replaced("dataset.json", '"label": "./labelsTr/liver_1.nii.gz"', '"label": 7'), {}, Refused("entry 2 of training in .*dataset.json is", "entries such as", "correct dataset.json")),
    ("decathlon", "a case listed twice", replaced("dataset.json", "liver_1.nii.gz", "liver_0.nii.gz"), {}, Refused("liver_0.nii.gz is listed twice", "each image once", "keep one row or entry")),
    ("decathlon", "no list", replaced("dataset.json", "training", "trained"), {"layout": "decathlon"}, Refused("dataset.json has no list training", "training as a list", "set another data.layout")),
    ("decathlon", "every image in four dimensions", lambda r: [volume(f"imagesTr/liver_{i}.nii.gz", in_channels)(r) for i in range(CASES)], {}, Refused("no usable slice .*liver_0.nii.gz has 4 dimensions", "slices with a label", "check the paths")),
    # KiTS
    ("kits", "no image", gone("case_00001/imaging.nii.gz"), {}, Said("^case_00001: skipped, no imaging.nii.gz$")),
    ("kits", "no mask", gone("case_00001/segmentation.nii.gz"), {}, Said("^case_00001: skipped, no case_00001/segmentation.nii.gz to find the organ in$")),
    ("kits", "unknown lesion", gone(), {"lesion": ["tumr"]}, Refused("data.lesion names 'tumr', which KiTS does not have", "the nearest: tumor", "correct data.lesion")),
    ("kits", "no case", nothing_but("case_1"), {"layout": "kits"}, Refused(r"holds no case_00000 \(case_1\)", "folders case_00000 with imaging", "correct the path or data.layout")),
    # CSV
    ("csv", "no image", gone("made/abnormal/i01.png"), {}, Refused("names a file that is missing", "an existing file", "correct the row")),
    ("csv", "no column of files", replaced("labels.csv", "file,", "picture,"), {}, Refused("no layout is recognised in .*; labels.csv has the columns picture, label, patient", "csv .a table with a column file", "rearrange the data")),
    ("csv", "no column of labels", replaced("labels.csv", ",label,", ",lable,"), {}, Refused(r"all 4 usable slices are abnormal \(labels.csv has no column label \(file, lable, patient\): labels can only come from lesion masks", "both normal and abnormal slices", "add the other class")),
    ("csv", "no column of labels, no masks", lambda r: (replaced("labels.csv", ",label,", ",lable,")(r), emptied(r / "masks")), {}, Refused("no case has an image label .* no image labels in labels.csv", "image labels of both classes", "add a table of labels")),
    ("csv", "a bad label", replaced("labels.csv", "i01.png,1", "i01.png,2"), {}, Refused("row 2 of .*labels.csv has a label that is not known", "0, 1, normal", "correct the row")),
    ("csv", "a file twice", written("labels.csv", LISTED + "made/normal/i00.png,0\n"), {}, Refused("i00.png is listed twice", "each image once", "keep one row or entry")),
    ("csv", "two files of one name", lambda r: (Image.new("L", (9, 9)).save(r / "a.png"), Image.new("L", (9, 9)).save(r / "a.tif"), text(r / "labels.csv", "file,label\na.png,0\na.tif,1\n")), {}, Refused("both have the id a", "unique ids", "rename or drop one")),
    ("csv", "images that no row names", lambda r: Image.new("L", (9, 9)).save(r / "made/normal/other.png"), {}, Said("^1 images or volumes not read, no row of labels.csv names them: other.png$")),
    ("csv", "a row without a file", written("labels.csv", LISTED + ",1\n"), {}, Refused("row 6 of .* names no file", "an image or a volume", "correct the row")),
    ("csv", "a row without a patient", replaced("labels.csv", ",p0", ","), {}, Refused("row 2 of .* has no patient", "a patient in every row", "correct the row")),
    ("csv", "a mask that is missing", written("labels.csv", "file,label,mask\nmade/normal/i00.png,0,\nmade/abnormal/i01.png,1,no.png\n"), {}, Refused("row 3 of .* names a file that is missing", "an existing file", "correct the row")),
    ("csv", "a column twice", replaced("labels.csv", "file,label,patient", "file,label,LABEL"), {}, Refused("has the column label twice", "columns with different names", "rename or drop one")),
    ("csv", "a mask that is its image", written("labels.csv", "file,label,mask\nmade/normal/i00.png,0,\nmade/abnormal/i01.png,1,made/abnormal/i01.png\n"), {}, Refused("row 3 of .* names its image as its mask", "a mask, or nothing", "correct the row")),
    ("csv", "a class that is uncertain", written("labels.csv", "file,crack,dent\nmade/normal/i00.png,0,0\nmade/normal/i02.png,1,0\nmade/abnormal/i01.png,0,1\nmade/abnormal/i03.png,0,-1\n"), {}, Refused("row 5 of .* has -1 in the column dent", "0, 1, or nothing if not known", "write nothing there, or name the columns")),
    ("csv", "names from a folder above the table", lambda r: text(r / "labels.csv", (r / "labels.csv").read_text().replace("made/", f"{r.name}/made/")), {}, Refused("row 2 of .* names a file that is missing", "an existing file", "move the table to .*, from where it names files")),
    ("csv", "several tables of files", lambda r: [text(r / f"{name}.csv", (r / "labels.csv").read_text()) for name in ("test", "train")] + [(r / "labels.csv").unlink()], {}, Refused("no layout is recognised in", "a table with a column file", "name one of test.csv, train.csv labels.csv")),
    ("csv", "a row that is too long", replaced("labels.csv", ",p0", ",p0,x"), {}, Refused("row 2 of .* has 4 cells and the header 3", "no more cells than columns", "correct the row")),
    ("csv", "one class", written("labels.csv", "file,label\nmade/abnormal/i01.png,1\nmade/abnormal/i03.png,1\n"), {"masks": None}, Refused("0 normal and 2 abnormal labels", "labels of both classes", "add the other class, or inject")),
    ("csv", "one patient", written("labels.csv", "file,label,patient\nmade/normal/i00.png,0,p\nmade/abnormal/i01.png,1,p\n"), {}, Refused(r"has one patient only", "two patients or more", "set data.split_by slice")),
    ("csv", "nothing in it", written("labels.csv", ""), {}, Refused("no layout is recognised in .*; labels.csv has the columns none", "csv .a table", "rearrange the data")),
    ("csv", "with colons", replaced("labels.csv", ",", ":"), {"layout": "csv"}, Refused(r"is or holds no table to read; labels.csv has the columns file:label:patient", "one .csv with a column file", "name it labels.csv, or give its path")),
    ("csv", "BOM, semicolons and Windows line ends", lambda r: text(r / "labels.csv", (r / "labels.csv").read_text().replace(",", ";").replace("\n", "\r\n"), "utf-8-sig"), {}, Said()),
    ("csv", "UTF-16 with tabs, as Excel saves Unicode", lambda r: text(r / "labels.csv", (r / "labels.csv").read_text().replace(",", "\t"), "utf-16"), {}, Said()),
    ("csv", "UTF-16 without its mark", lambda r: text(r / "labels.csv", (r / "labels.csv").read_text(), "utf-16-le"), {"layout": "csv"}, Refused("labels.csv cannot be read as a table", "UTF-8 CSV", "save it as UTF-8 CSV")),
    ("csv", "lines of comments first", lambda r: text(r / "labels.csv", "# label, of 2024\n#\n" + (r / "labels.csv").read_text()), {}, Said()),
    ("csv", "a line of names that begins with #", lambda r: text(r / "labels.csv", "# " + (r / "labels.csv").read_text()), {}, Said()),
    ("csv", "a bad row after a line of comments", written("labels.csv", "# made in 2024\nfile,label\nmade/normal/i00.png,0\nmade/abnormal/i01.png,7\n"), {}, Refused("row 4 of .* has a label that is not known", "0, 1", "correct the row")),
    ("csv", "labels in words", lambda r: text(r / "labels.csv", re.sub(",[01],", lambda m: ",Nein," if "0" in m[0] else ",Ja,", (r / "labels.csv").read_text())), {}, Said()),
    ("csv", "labels in words of which it is not clear what they say", replaced("labels.csv", "i01.png,1", "i01.png,malignant"), {}, Refused("row 2 of .*labels.csv has a label that is not known", "0, 1, normal, abnormal, yes, no", "correct the row")),
    ("csv", "a label -1", replaced("labels.csv", "i01.png,1", "i01.png,-1"), {}, Refused("row 2 of .*labels.csv has a label that is not known", "0, 1, normal", "correct the row")),
    ("csv", "a bad row after a cell of two lines", written("labels.csv", 'file,label,note\nmade/normal/i00.png,0,"two\nlines"\n\nmade/abnormal/i01.png,7,\n'), {}, Refused("row 4 of .* has a label that is not known", "0, 1", "correct the row")),
    ("csv", "organs by name", lambda r: (r / "masks").rename(r / "organs"), {"organ": ["kidney"]}, Refused("data.organ is kidney", "label values such as 1", "correct data.organ")),
    # Several classes
    ("csv", "a class with one image", classes_in({"crack": "0100", "dent": "1010"}), {}, Refused("class crack of .* is in one image only", "two or more, one to train and one to hold out", "add images, or leave it out")),
    ("csv", "a class in every image", classes_in({"crack": "1111", "dent": "1010"}), {}, Refused("class crack of .* is in every image that has a label of it", "images without it", "add some, or leave it out")),
    ("csv", "an unknown class", classes_in({"crack": "0101", "dent": "1010"}), {"classes": ["crack", "dint"]}, Refused("data.classes names 'dint', which labels.csv does not have", r"classes that the data have \(the nearest: dent\)", "correct data.classes")),
    ("csv", "40 classes", classes_in({f"c{n}": f"{'0110' if n % 2 else '1100'}" for n in range(40)}), {}, Refused(r"has 40 classes \(c0, c1, c2 and 37 more\)", "at most 32", "name fewer with data.classes")),
    ("csv", "a class named background", classes_in({"background": "0101", "dent": "1010"}), {}, Refused("has a class named 'background'", "another name", "rename it, or leave it out")),
    # Folders
    ("sequences", "a scan without one of its sequences", gone("p1/p1_t1.nii.gz"), {}, Refused("1 of 4 cases have not all of the images flair, t1: p1", "the same channels for every case", "add them")),
    ("sequences", "no mask to make a label from", gone("p1/p1_seg.nii.gz"), {}, Said("^p1: skipped, no p1/p1_seg.nii.gz to make its labels from$")),
    ("folders", "no abnormal images", lambda r: (emptied(r / "abnormal"), emptied(r / "masks")), {}, Refused("abnormal holds no image", ".png, .jpg", "correct the folder")),
    ("folders", "a folder that is not there", gone(), {"normal": ["normal"], "abnormal": ["nowhere"]}, Refused("nowhere is no folder", "folders relative to the data", "correct data.normal or data.abnormal")),
    ("folders", "names nobody knows", lambda r: (renamed("normal", "good ones")(r), renamed("abnormal", "others")(r)), {}, Refused("no layout is recognised in .*: good ones, masks, others", KNOWN, "set data.normal and data.abnormal")),
    ("folders", "one class", lambda r: (emptied(r / "abnormal"), (r / "abnormal").rmdir()), {}, Refused("4 normal and 0 abnormal labels", "labels of both classes", "add the other class")),
    ("folders", "masks that fit nobody", lambda r: [p.rename(p.with_name(f"m{p.name}")) for p in sorted((r / "masks").iterdir())], {"masks": "masks"}, Refused("no mask in masks has the name of an image", "masks/x.png for x.png", "correct data.masks")),
    ("folders", "masks in no folder", gone(), {"masks": "truth"}, Refused("truth is no folder", "a folder relative to the data", "correct data.masks")),
    ("folders", "two images of one name", lambda r: (Image.new("L", (9, 9)).save(r / "normal/a.png"), Image.new("L", (9, 9)).save(r / "normal/a.tif")), {}, Refused("both have the id normal__a", "unique ids", "rename or drop one")),
    ("folders", "images whose names differ in odd characters", lambda r: [Image.new("L", (9, 9)).save(r / f"normal/{name}.png") for name in ("a b", "a_b", "=1", "＝1")], {}, Said()),
    ("folders", "a third class", lambda r: ((r / "Cyst").mkdir(), Image.new("L", (9, 9)).save(r / "Cyst/a.png")), {}, Said(r"^folders not read: Cyst \(1\), with 1 images or volumes; data.normal and data.abnormal name those that are$")),
    ("folders", "one class beside a class nobody knows", renamed("abnormal", "PNEUMONIA"), {}, Refused(r"4 normal and 0 abnormal labels are given in .* \(folders not read: PNEUMONIA \(4\)", "labels of both classes", "add the other class")),
    ("folders", "endings nobody reads", lambda r: [text(r / "normal" / name, "x") for name in ("a.webp", "b.WEBP", "c.tar.gz", "README.md", "LICENSE")], {}, Said("^3 files not read, for their ending: 1 x .gz, 2 x .webp$")),
    ("folders", "the same picture in both classes", lambda r: shutil.copy(r / "normal/i00.png", r / "abnormal/x.png"), {}, Refused("abnormal/x.png and .*normal/i00.png have the same pixels and contradict each other", "one label for the same pixels", "correct one, or leave both out")),
    ("folders", "a picture twice", lambda r: shutil.copy(r / "normal/i00.png", r / "normal/x.png"), {}, Said(r"^cases with the pixels of another: 1 \(such as normal__i00 and normal__x\); they are kept on one side of the split$")),
    ("folders", "a label value that no mask has", gone(), {"lesion": ["1"]}, Refused(r"no lesion mask has the value 1 of data.lesion \(there are: 0, 255\)", "label values that the masks have", "correct data.lesion")),
    ("folders", "a label value that some masks have", lambda r: Image.new("L", (44, 40), 7).save(r / "masks/i01.png"), {"lesion": ["255", "7", "3"]}, Said(r"^no lesion mask has the value 3 of data.lesion \(there are: 0, 7, 255\)$")),
    ("folders", "empty masks", lambda r: [Image.new("L", (44, 40)).save(p) for p in sorted((r / "masks").iterdir())], {}, Said("^all 4 lesion masks are empty: no lesion can be scored$")),
    ("folders", "a mask beside nothing", lambda r: [Image.new("L", (44, 40)).save(r / f"abnormal/{name}_mask.png") for name in ("i01", "i99")], {}, Said("^masks without their image are left out: i99_mask.png$")),
    ("folders", "an empty folder", emptied, {}, Refused("is an empty folder", KNOWN, "correct the path")),
    ("folders", "hidden files only", lambda r: (emptied(r), beside("a.png")(r)), {}, Refused("is an empty folder", KNOWN, "correct the path")),
    ("folders", "a class with one image", in_folders({"crack": 1, "dent": 2}), {"classes": ["crack", "dent"]}, Refused("class crack of .* is in one image only", "two or more, one to train and one to hold out", "add images, or leave it out")),
    ("folders", "a class in every image", lambda r: (in_folders({"crack": 2, "dent": 0})(r), emptied(r / "normal"), (r / "normal").rmdir(), [shutil.copy(p, r / "dent") for p in sorted((r / "crack").iterdir())]), {"classes": ["crack", "dent"]}, Refused("class crack of .* is in every image that has a label of it", "images without it", "add some, or leave it out")),
    ("folders", "an unknown class", in_folders({"crack": 2, "dent": 2}), {"classes": ["crack", "dint"]}, Refused(r"data.classes names 'dint', which .* \(folders\) does not have", r"classes that the data have \(the nearest: dent\)", "correct data.classes")),
    ("folders", "40 classes", in_folders(dict.fromkeys(FORTY, 2)), {"classes": FORTY}, Refused(r"has 40 classes \(c0, c1, c2 and 37 more\)", "at most 32", "name fewer with data.classes")),
    # DICOM
    ("dicom", "a slice cut off", cut_series, {}, Said("^p1: .* cannot be read .*required: an intact DICOM file")),
    ("dicom", "a slice missing", lambda r: sorted((r / "p1").iterdir())[1].unlink(), {}, Said("^p1: .*required: ")),
    ("dicom", "no mask", gone("masks/p1.nii.gz"), {}, Said("^abnormal and without a lesion mask, so not scored: p1$")),
    ("dicom", "two series in a folder", lambda r: write_series(r / "p1/more", hounsfield(labelled()).T, LPS, series="1.9", number=8), {}, Said("^p1: .* holds 2 DICOM series: .*choose one: .*p1#")),
    ("dicom", "no table, lesion masks of some", gone("labels.csv"), {}, Said("^no slice of p0, p2 is used: without a label")),
    ("dicom", "no table", lambda r: (gone("labels.csv")(r), emptied(r / "masks")), {}, Refused("no case has an image label .* no table with a column of cases", "image labels of both classes", "add a table of labels")),
    ("dicom", "a table without the column of labels", replaced("labels.csv", "case,label", "case,outcome"), {}, Refused("labels.csv has the columns case, outcome", "a column label or", "rename one")),
    ("dicom", "another table without the column of labels", lambda r: (replaced("labels.csv", "label", "outcome")(r), renamed("labels.csv", "x.csv")(r), emptied(r / "masks")), {}, Refused(r"no table .* and a column label; x.csv has the columns case, outcome$", "image labels of both classes", "add a table of labels")),
    ("dicom", "two tables", lambda r: [text(r / name, "case,label\np0,0\n") for name in ("a.csv", "b.csv")] and gone("labels.csv")(r), {}, Refused("a.csv, b.csv in .* may all be the table of labels", "one such table", "name it labels.csv")),
    ("dicom", "a case that is missing", replaced("labels.csv", "p1,", "q1,"), {}, Said("^labels.csv names 1 case \\(row [0-9]+\\) that the data do not have$")),
    ("dicom", "a case without a label", replaced("labels.csv", "p1,1\n", ""), {}, Said("^labels.csv does not name p1: they have no labels$")),
    ("dicom", "a row without a case", replaced("labels.csv", "p1,", ","), {}, Refused("row 3 of .*labels.csv names no case", "a case in every row", "correct the row")),
    ("dicom", "one class", written("labels.csv", "case,label\n" + ABNORMAL), {}, Refused("0 normal and 4 abnormal labels", "labels of both classes", "add the other class")),
    ("dicom", "no series", nothing_but("p1"), {"layout": "dicom"}, Refused(r"holds no DICOM series \(folders: p1\)", "a folder or .zip of DICOM files", "correct the path or data.layout")),
]  # fmt: skip
