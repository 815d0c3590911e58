"""Pictures of a case side by side, for a notebook: the image, its counterfactual, the difference and the mask."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from coinseg.data.readers.axes import turned
from coinseg.data.slices.intensity import signed
from coinseg.errors import UserError

from .image_score import ImageScores
from .scans import PreparedSlice, cut_slices, images_of
from .sources import Organs, Source, is_prepared, load_all, numbers, unit_array

if TYPE_CHECKING:
    from .predictor import Predictor

OUTLINE = (255, 140, 0)  # orange, as in `coinseg review`
SIDE = 160  # pixels of a picture in a notebook
MOST = 8
"""How many images or slices are shown, unless more are asked for."""


@dataclass(frozen=True)
class Row:
    """One image: what is written beside it, and its pictures, (S, S, 3) uint8, in the order of `Pictures.columns`."""

    caption: str
    pictures: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures; a notebook shows them as a table.

    Args:
        columns: what the pictures of a row are.
        rows: the images, or the slices of a scan with the largest masks.
        notes: lines for the reader: why masks are doubtful, what is left out.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        """HTML that loads nothing from elsewhere."""
        head = "".join(f"<th>{escape(name)}</th>" for name in ("", *self.columns))
        body = "".join(
            f"<tr><td>{escape(row.caption)}</td>{''.join(map(_cell, row.pictures, self.columns))}</tr>" for row in self.rows
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def __repr__(self) -> str:
        return "\n".join(
            [f"{len(self.rows)} rows of {', '.join(self.columns)}", *(row.caption for row in self.rows), *self.notes]
        )

    def picture(self) -> np.ndarray:
        """All of them in one picture (H, W, 3) uint8, without the words."""
        return np.concatenate([np.concatenate(row.pictures, 1) for row in self.rows])


def show(predictor: Predictor, source: Source, organ: Organs = (), most: int = MOST) -> Pictures:
    """See `Predictor.show`."""
    if most < 1:
        raise UserError(f"most is {most}", "1 image or more", "leave it out for 8")
    if is_prepared(predictor, source):
        images = torch.from_numpy(numbers(source)).float()
    elif (array := unit_array(predictor, source)) is not None:
        images = torch.from_numpy(signed(array))
    else:
        return _of_cases(predictor, source, organ, most)
    predictor.explainer.require_images(images)
    images, left = images[:most], len(images) - most
    logits, apart = predictor.look(images)
    scores = predictor.scores(logits)
    masks = predictor.segment_images(images, scores)
    captions = [f"image {i}" for i in range(len(images))]
    notes = [f"doubtful: {line}" for line in predictor.doubts_of(images, apart)]
    notes += [f"{left} more images are not shown"] if left > 0 else []
    return _pictures(predictor, images, masks.masks, captions, scores, tuple(notes))


def _of_cases(predictor: Predictor, source: Source, organ: Organs, most: int) -> Pictures:
    """The slices with the largest masks; where nothing is marked those with the highest scores."""
    cases, _ = load_all(predictor, source, organ)
    results = predictor.segment_cases(cases)
    slices = cut_slices(predictor, cases)
    axis, size = predictor.settings.data.axis, predictor.settings.data.side
    natives = [turned(result.mask, axis) for result in results]
    inside = [one.cut.box.resize_mask(natives[one.owner][one.cut.index], size).astype(bool) for one in slices]
    f = [results[one.owner].probability[one.cut.index] for one in slices]
    order = sorted(range(len(slices)), key=lambda i: (-int(inside[i].sum()), -f[i]))[:most]
    shown = sorted(order, key=lambda i: (slices[i].owner, slices[i].cut.index, i))
    notes = [line for result in results for line in result.doubts]
    notes = list(dict.fromkeys([f"doubtful: {line}" for line in notes]))
    if not shown:
        return Pictures(("image",), (), (*notes, "no slice of it was looked at: none touches the organ"))
    if len(shown) < len(slices):
        notes.append(
            f"{len(slices) - len(shown)} more slices are not shown; {sum(map(np.any, inside))} of {len(slices)} are marked"
        )
    images = images_of(predictor, [slices[i] for i in shown])
    captions = [_caption(slices[i], several=len(cases) > 1) for i in shown]
    scores = ImageScores.of_f(predictor.probability(images))  # of the square that is shown, not the highest of its slice
    return _pictures(predictor, images, np.stack([inside[i] for i in shown]), captions, scores, tuple(notes))


def _caption(one: PreparedSlice, several: bool) -> str:
    """What a square is called: its image where there are several, else its slice; and which part of it is shown."""
    cut = one.cut
    part = "" if cut.region < 0 else f", {'tile' if cut.is_tile else 'region'} {cut.region}"
    return f"image {one.owner}{part}" if several else f"slice {cut.index}{part}"


def _pictures(
    predictor: Predictor, images: Tensor, masks: np.ndarray, captions: list[str], scores: ImageScores, notes: tuple[str, ...]
) -> Pictures:
    """Rows of images (B, C, S, S) in [-1, 1] with masks (B, S, S)."""
    explanation = predictor.explain(images)
    grounds = [_rgb(image) for image in (images / 2 + 0.5).numpy()]
    columns: dict[str, list[np.ndarray]] = {"image": grounds}
    if explanation.counterfactual is not None:
        columns["counterfactual"] = [_rgb(image) for image in (explanation.counterfactual.cpu() / 2 + 0.5).numpy()]
    name = "difference" if explanation.counterfactual is not None else predictor.settings.method
    columns[name] = [_rgb(map_[None] / max(float(map_.max()), 1e-6)) for map_ in explanation.saliency.cpu().numpy()]
    columns["mask"] = [_outlined(*pair) for pair in zip(grounds, masks, strict=True)]
    marked = masks.reshape(len(masks), -1).mean(1)
    words = [f"{c}: f {p:.2f}, {m:.1%} marked" for c, p, m in zip(captions, scores.probability, marked, strict=True)]
    rows = tuple(Row(*row) for row in zip(words, zip(*columns.values(), strict=True), strict=True))
    return Pictures(tuple(columns), rows, notes)


def _rgb(image: np.ndarray) -> np.ndarray:
    """An image (C, S, S) in [0, 1] as (S, S, 3) uint8: its three channels in colour, else the first one as grey."""
    shown = image if len(image) == 3 else np.repeat(image[:1], 3, 0)
    return np.moveaxis(np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8), 0, 2)


def _outlined(ground: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the border of the mask, which lies inside of it, in orange."""
    picture = ground.copy()
    picture[mask & ~ndimage.binary_erosion(mask)] = OUTLINE
    return picture


def _cell(picture: np.ndarray, name: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<td><img alt="{escape(name)}" width="{SIDE}" style="image-rendering:pixelated" src="data:image/png;base64,{data}"></td>'
    )
