"""Where labels stand beside the markers of a picture: none on another, on a marker or cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Box", "Place", "Spot", "overlap", "place_labels"]

Array: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Spot: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right, top."""

# To the right, left, top, bottom, and between: the earlier, the better.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_BETWEEN = ((1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1))
# How far off, in widths of a marker. Beyond the first one, a line leads back to the marker.
_NEAR, _FURTHER = 0.2, (1, 1.75, 2.5, 3.5, 5, 7)
_SWEEPS = 10
# What is wrong with a place, in units of half a marker's width that it stands further off.
_COVERED, _CROSSED, _ON_CURVE, _BESIDE_ANOTHER = 1000.0, 30.0, 3.0, 4.0


@dataclass(frozen=True)
class Place:
    """Where one label stands.

    Attributes:
        box: The rectangle that it fills.
        leader: The line to it from its markers; None where it stands beside them.
        free: Whether it is on no other label and on no marker.
        clear: Whether, besides, no line crosses it or its own line, and it could not be taken for
            the label of another marker.
    """

    box: Box
    leader: tuple[Spot, Spot] | None
    free: bool
    clear: bool


def place_labels(
    markers: Sequence[Sequence[Spot]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    width: float,
    curve: Sequence[Spot] = (),
) -> list[Place]:
    """Find a place for each label, in the same way each time.

    One label after the other takes the place that is best while the others stand where they do,
    again and again until none moves.

    Args:
        markers: For each label, the middles of its markers: one, or some that lie close together.
        sizes: The width and height of each label.
        frame: What no label leaves.
        width: The width and height of a marker.
        curve: Spots on a line that labels had better not cover.
    """
    boxes = [_around(np.array(own), width) for own in markers]
    options = [
        _Options(own, size, frame, width, [*boxes[:index], *boxes[index + 1 :]], curve)
        for index, (own, size) in enumerate(zip(boxes, sizes, strict=True))
    ]
    forwards = range(len(options))
    crowded = sorted(forwards, key=lambda index: -options[index].least)
    settled = [_settle(options, order) for order in (forwards, crowded)]
    return min(settled, key=lambda each: each[0])[1]


def overlap(boxes: Array, others: Array) -> Mask:
    """Return which boxes overlap which: (n, 4) and (m, 4) -> (n, m)."""
    a, b = boxes[:, None, :], others[None, :, :]
    apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
    return np.asarray(~apart.any(-1))


class _Options:
    """The places that one label can take, and what is wrong with each.

    Args:
        own: The boxes of its markers.
        size: Its width and height.
        frame: What it does not leave.
        width: The width of a marker.
        others: The boxes of other labels' markers.
        curve: Spots on a line.
    """

    def __init__(
        self,
        own: Array,
        size: tuple[float, float],
        frame: Box,
        width: float,
        others: Sequence[Array],
        curve: Sequence[Spot],
    ) -> None:
        low, high = own[:, :2].min(0), own[:, 2:].max(0)
        start = (low + high) / 2
        ways = [(right, up, _NEAR) for right, up in _DIRECTIONS]
        ways += [(*way, ring) for ring in _FURTHER for way in (*_DIRECTIONS, *_BETWEEN)]
        towards = np.array([way[:2] for way in ways], float)
        off = np.array([way[2] for way in ways])
        reach = (high - low + np.array(size)) / 2 + width * off[:, None]
        corners = start + towards * reach - np.array(size) / 2
        # Where a label would leave the frame, it slides along it.
        corners = np.clip(corners, frame[:2], np.array(frame[2:]) - size)
        self.boxes = np.concatenate([corners, corners + size], axis=1)
        self.near = off == _NEAR
        ends = np.clip(start, self.boxes[:, :2], self.boxes[:, 2:])
        self.leaders = np.stack([np.broadcast_to(start, ends.shape), ends], axis=1)
        there = np.concatenate([np.empty((0, 4)), *others])
        # Right beside another marker, it would be taken for that one's.
        beside = (
            there + width * np.array([[-0.5, 0.35, 0.5, -0.35], [0.35, -0.5, -0.35, 0.5]])[:, None]
        )
        spots = np.tile(np.array(curve, float).reshape(-1, 2), 2)
        away = np.maximum(np.maximum(low - self.boxes[:, 2:], self.boxes[:, :2] - high), 0)
        self.far = (
            2 * np.linalg.norm(away, axis=1) / width
            + np.where(self.near, 0, 1)
            + 0.05 * (np.arange(len(ways)) % len(_DIRECTIONS))
            + _ON_CURVE * overlap(self.boxes, spots).sum(1)
        )
        self.faults: Array = (
            _COVERED * overlap(self.boxes, np.concatenate([own, there])).sum(1)
            + _BESIDE_ANOTHER * overlap(self.boxes, beside.reshape(-1, 4)).sum(1)
            + _CROSSED * _crossings(self.leaders, there).sum(1)
        )
        self.least = float((self.far + self.faults).min())

    def faults_among(self, chosen: Sequence[tuple[_Options, int]]) -> Array:
        """Return what is wrong with each place while other labels stand where they do."""
        if not chosen:
            return self.faults
        boxes = np.array([other.boxes[place] for other, place in chosen])
        leaders = np.array([other.leaders[place] for other, place in chosen])
        return np.asarray(
            self.faults
            + _COVERED * overlap(self.boxes, boxes).sum(1)
            + _CROSSED * _crossings(self.leaders, boxes).sum(1)
            + _CROSSED * _crossings(leaders, self.boxes).sum(0)
            + _CROSSED * _meet(self.leaders, leaders).sum(1)
        )

    def place(self, index: int, fault: float) -> Place:
        """Return one of the places."""
        left, bottom, right, top = self.boxes[index].tolist()
        (x, y), (u, v) = self.leaders[index].tolist()
        leader = None if self.near[index] else ((x, y), (u, v))
        return Place((left, bottom, right, top), leader, fault < _COVERED, fault == 0)


def _settle(options: Sequence[_Options], order: Sequence[int]) -> tuple[float, list[Place]]:
    """Return the places that labels take in this order, and how bad all of them are together."""
    chosen: dict[int, int] = {}

    def faults(index: int) -> Array:
        others = [(options[other], place) for other, place in chosen.items() if other != index]
        return options[index].faults_among(others)

    for _ in range(_SWEEPS):
        before = dict(chosen)
        for index in order:
            chosen[index] = int(np.argmin(options[index].far + faults(index)))
        if chosen == before:
            break
    total, places = 0.0, []
    for index, option in enumerate(options):
        place = chosen[index]
        fault = float(faults(index)[place])
        total += fault + float(option.far[place])
        places.append(option.place(place, fault))
    return total, places


def _around(spots: Array, width: float) -> Array:
    return np.concatenate([spots - width / 2, spots + width / 2], axis=1)


def _crossings(lines: Array, boxes: Array) -> Mask:
    """Return which lines run through which boxes: (n, 2, 2) and (m, 4) -> (n, m)."""
    start, step = lines[:, None, 0], lines[:, None, 1] - lines[:, None, 0]
    step = np.where(step == 0, 1e-9, step)
    a, b = (boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step
    enters = np.minimum(a, b).max(-1)
    leaves = np.maximum(a, b).min(-1)
    return np.asarray(np.maximum(enters, 0) < np.minimum(leaves, 1))


def _meet(lines: Array, others: Array) -> Mask:
    """Return which lines cross which: (n, 2, 2) and (m, 2, 2) -> (n, m)."""
    a, b = lines[:, None, 0], lines[:, None, 1]
    c, d = others[None, :, 0], others[None, :, 1]

    def side(p: Array, q: Array, r: Array) -> Array:
        u, v = q - p, r - p
        return np.asarray(u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0])

    return np.asarray((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0))
