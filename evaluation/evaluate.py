"""Measure how well rain is removed: from pictures whose truth is known, from pictures without one, and from video.

What every figure is measured on stands in ``figures``, and goes with the result in words.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import DerainError, InputError, MediaError, VerificationError
from ..base.files import require_writable
from ..base.options import combined
from ..base.progress import Progress, no_progress
from ..media.pictures.images import format_of
from .bootstrap import Interval, paired_bootstrap
from .figures import (
    WITH_TRUTH,
    WITHOUT_TRUTH,
    Values,
    as_measured,
    describe_protocol,
    difference,
    measure_picture,
    text,
    to_json,
)
from .options import EvaluateOptions, EvaluationProtocol
from .published import DataSet, named, recognise
from .sets import Folder, Pair, find_sets, read_pair
from .sheet import Case, Sheet, panel
from .subject import Model, Subject, open_subject
from .video import Flicker, measure_flicker


@dataclass(frozen=True)
class Scores:
    """Figures of the rainy picture, of the output, and of the rival's output where there is a rival."""

    rainy: Values
    output: Values
    rival: Values | None = None

    @property
    def columns(self) -> list[Values]:
        """All of them that there are."""
        return [self.rainy, self.output] if self.rival is None else [self.rainy, self.output, self.rival]

    @property
    def gain(self) -> Values:
        """Output less rainy; NaN where both are infinite."""
        return difference(self.output, self.rainy)

    @property
    def lead(self) -> Values:
        """Output less the rival's; empty without a rival."""
        return {} if self.rival is None else difference(self.output, self.rival)

    def to_json(self) -> dict[str, Any]:
        record = {name: to_json(getattr(self, name)) for name in ("rainy", "output", "gain")}
        if self.rival is not None:
            record |= {"rival": to_json(self.rival), "lead": to_json(self.lead)}
        return record


@dataclass(frozen=True)
class EvaluationFailure:
    """A picture or video that could not be measured, and why; the message names the file."""

    name: str
    error: DerainError


@dataclass(frozen=True)
class SetResult:
    """One folder of pictures.

    pictures: names of those that were measured.
    data_set: the public one that it is, or is a part of, where that is known.
    """

    name: str
    pictures: tuple[str, ...]
    data_set: DataSet | None = None

    @property
    def share(self) -> str:
        """``a part: 50 of 100 pictures`` or ``all 100 pictures``; "" of an unknown data set."""
        if self.data_set is None:
            return ""
        count, total = len(self.pictures), self.data_set.pictures
        if count < total:
            return f"a part: {count} of {total} pictures"
        return f"all {total} pictures" if count == total else f"{count} pictures, where it has {total}"


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    subject, rival: what was evaluated, as it was named. method, rival_method: how its output was computed.
    figures: what was measured of pictures. pictures: by name, in order. sizes: (height, width) of each in pixels.
    clips: by name of the video, the flicker of the subject's output, and of the rival's where there is a rival.
    """

    subject: str
    method: str
    protocol: EvaluationProtocol
    figures: tuple[str, ...]
    pictures: dict[str, Scores]
    sizes: dict[str, tuple[int, int]]
    sets: tuple[SetResult, ...] = ()
    rival: str | None = None
    rival_method: str | None = None
    clips: dict[str, tuple[Flicker, ...]] = field(default_factory=dict)
    failures: tuple[EvaluationFailure, ...] = ()

    @property
    def mean(self) -> Scores:
        """Each figure's mean over all pictures of all sets."""
        return self.mean_of(self.pictures)

    def mean_of(self, names: Sequence[str] | dict[str, Any]) -> Scores:
        """Take each figure's mean over these pictures, without those of which it is not defined, rainy or clean."""
        means: list[Values] = [{} for _ in range(2 if self.rival is None else 3)]
        for figure in self.figures:
            rows = [[values[figure] for values in self.pictures[name].columns] for name in names]
            rows = [row for row in rows if not any(map(math.isnan, row))]
            for column, mean in enumerate(means):
                mean[figure] = sum(row[column] for row in rows) / len(rows) if rows else math.nan
        return Scores(*means)

    def undefined(self, figure: str) -> list[str]:
        """Return the pictures that have no such figure."""
        return [
            n for n, scores in self.pictures.items() if any(math.isnan(v[figure]) for v in scores.columns)
        ]

    def lead(self) -> dict[str, Interval]:
        """Give each figure's mean of output less rival over all pictures of all sets, with its bootstrap interval.
        Pictures on which the difference is not finite are left out; so is a figure with fewer than two."""
        leads = {f: [c.lead[f] for c in self.pictures.values() if c.rival is not None] for f in self.figures}
        finite = {f: [value for value in values if math.isfinite(value)] for f, values in leads.items()}
        return {f: paired_bootstrap(values) for f, values in finite.items() if len(values) > 1}

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "subject": self.subject,
            "method": self.method,
            "protocol": describe_protocol(self.protocol, self.figures if self.pictures else ()),
        }
        if self.rival is not None:
            record["against"] = {
                "subject": self.rival,
                "method": self.rival_method,
                "lead": {figure: interval.to_json() for figure, interval in self.lead().items()},
            }
        if self.pictures:
            record["mean"] = self.mean.to_json()
        record["sets"] = [self._set_to_json(each) for each in self.sets]
        record["pictures"] = [
            {"name": name, "height": self.sizes[name][0], "width": self.sizes[name][1], **each.to_json()}
            for name, each in self.pictures.items()
        ]
        record["videos"] = [
            {"name": name, **{who: flicker.to_json() for who, flicker in zip(_WHO, each, strict=False)}}
            for name, each in self.clips.items()
        ]
        record["failures"] = [{"name": each.name, "error": str(each.error)} for each in self.failures]
        return record

    def _set_to_json(self, each: SetResult) -> dict[str, Any]:
        record: dict[str, Any] = {"name": each.name, "pictures": len(each.pictures)}
        if each.pictures:
            record["mean"] = self.mean_of(each.pictures).to_json()
        if each.data_set is not None:
            tables = each.data_set.compared(self.figures)
            record |= {
                "data_set": each.data_set.name,
                "data_set_pictures": each.data_set.pictures,
                "published": [table.to_json() for table in tables],
            }
        return record


#: Whose flicker is in ``Evaluation.clips``.
_WHO = ("output", "rival")


def evaluate(
    model: Model,
    rainy: Folder | Sequence[Folder] = (),
    clean: Folder | Sequence[Folder] | None = None,
    *,
    videos: Sequence[Folder] = (),
    against: Model | None = None,
    options: EvaluateOptions | None = None,
    trust: str | Sequence[str] = (),
    building: Callable[[str, Path], None] = lambda name, path: None,
    progress: Progress = no_progress,
    **fields: Any,
) -> Evaluation:
    """Clean every picture of ``rainy`` and measure it, against its namesake in ``clean`` where there is one.

    A picture that cannot be read or measured is left out and named in the result, as long as others can.

    Args:
        model: an engine file; a weights file, which the fp32 reference network runs on padded frames, as every
            engine does; the name of shipped weights, for their engine; ``BASELINE``, a 5x5 morphological opening of
            each channel, which removes thin bright streaks without a network; a folder of pictures that are clean
            already, under the names of the rainy ones; or a clean video, for ``videos``. An existing file goes before
            a name.
        rainy: a folder of pictures, or several.
        clean: as many folders in the same order; without, NIQE is measured in the place of PSNR and SSIM.
        videos: rainy videos whose temporal flicker is measured.
        against: another model, whose output on the same pictures is measured too.
        options, fields: an :class:`EvaluateOptions`, or fields of one by name, which go before those of ``options``.
        trust, building: as for ``load`` and ``find_engine``.
        progress: told the picture being worked on and the fraction done.

    Raises:
        InputError: nothing to evaluate, folders that do not pair, ``native`` for something that is no network, or
            options that do not fit. The error of the only picture; or none of several could be measured.
        VerificationError: NaN or infinity came out.
        BundleError, CheckpointError, BackendUnavailable: the model cannot be run.
    """
    options = combined(EvaluateOptions, options, fields)
    sets = find_sets(rainy, clean)
    clips = list(dict.fromkeys(Path(each) for each in videos))
    truths = any(pair.clean for each in sets for pair in each.pairs)
    if not sets and not clips:
        raise InputError("There is nothing to evaluate: give folders of rainy pictures, or videos.")
    data_set = None if options.published is None else named(options.published)
    data_sets = [data_set or recognise(each.folder) for each in sets]
    if options.sheet is not None:
        format_of(Path(options.sheet))
        require_writable(options.sheet)
        if not sets:
            raise InputError("A sheet shows pictures; give a folder of rainy ones.")
    sheet = None if options.sheet is None else Sheet()
    pictures: dict[str, Scores] = {}
    sizes: dict[str, tuple[int, int]] = {}
    flicker: dict[str, tuple[Flicker, ...]] = {}
    failures: list[EvaluationFailure] = []
    both: dict[str, Any] = {"trust": trust, "progress": progress, "building": building}
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(open_subject(model, options, **both))]
        if against is not None:
            native = EvaluateOptions(native=options.native)
            subjects.append(stack.enter_context(open_subject(against, native, **both)))
        for each in subjects:
            _check_fits(each, len(sets), len(clips))
        pairs = [pair for each in sets for pair in each.pairs]
        for number, pair in enumerate(pairs):
            progress(pair.name, number / len(pairs))
            try:
                pictures[pair.name], sizes[pair.name] = _measure(pair, subjects, options.protocol, sheet)
            except (InputError, MediaError) as error:
                failures.append(EvaluationFailure(pair.name, error))
        if pairs:
            progress(pairs[-1].name, 1.0)
        for clip in clips:
            try:
                flicker[str(clip)] = tuple(
                    measure_flicker(clip, each, options.protocol, progress=progress) for each in subjects
                )
            except (InputError, MediaError) as error:
                failures.append(EvaluationFailure(str(clip), error))
    if failures and not pictures and not flicker:
        if len(failures) == 1:
            raise failures[0].error
        raise InputError(f"None of {len(failures)} could be measured; the first: {failures[0].error}")
    subject, rival = subjects[0], None if against is None else subjects[1]
    if sheet is not None and options.sheet is not None:
        words = describe_protocol(options.protocol, ())
        headline = [f"{subject.name} ({subject.method})", f"{words['values']}; cropped: {words['crop']}"]
        sheet.write(Path(options.sheet), headline, "gain in PSNR, RGB" if truths else "fall of NIQE")
    return Evaluation(
        subject=subject.name,
        method=subject.method,
        protocol=options.protocol,
        figures=WITH_TRUTH if truths else WITHOUT_TRUTH,
        pictures=pictures,
        sizes=sizes,
        sets=tuple(
            SetResult(each.name, tuple(p.name for p in each.pairs if p.name in pictures), known)
            for each, known in zip(sets, data_sets, strict=True)
        ),
        rival=rival and rival.name,
        rival_method=rival and rival.method,
        clips=flicker,
        failures=tuple(failures),
    )


def _check_fits(subject: Subject, sets: int, clips: int) -> None:
    if subject.video is not None and (sets or clips != 1):
        raise InputError(f"{subject.name} is a clean video; give the one rainy video it was made from.")
    if subject.pictures and (clips or sets != 1):
        raise InputError(
            f"{subject.name} is a folder of clean pictures; give the one rainy folder it is for."
        )


def _measure(
    pair: Pair, subjects: Sequence[Subject], protocol: EvaluationProtocol, sheet: Sheet | None
) -> tuple[Scores, tuple[int, int]]:
    """Return the figures, and (height, width)."""
    try:
        rainy, truth = read_pair(pair)
        outputs = [_output(each, pair, rainy, protocol) for each in subjects]
        scores = Scores(*(measure_picture(image, truth) for image in (rainy, *outputs)))
    except InputError as error:
        told = str(error)
        raise error if str(pair.rainy) in told else InputError(f"{pair.rainy}: {told}") from error
    except MemoryError as error:
        raise MediaError(f"{pair.rainy} cannot be measured: there is not enough memory.") from error
    if sheet is not None:
        sheet.add(_case(pair.name, rainy, outputs[0], truth, scores))
    return scores, (rainy.shape[0], rainy.shape[1])


def _output(subject: Subject, pair: Pair, rainy: np.ndarray, protocol: EvaluationProtocol) -> np.ndarray:
    output = subject.clean(pair, rainy)
    if not np.isfinite(output).all():
        raise VerificationError(f"{subject.name} gave NaN or infinite values on {pair.rainy}.")
    return as_measured(output, protocol)


def _case(name: str, rainy: np.ndarray, output: np.ndarray, truth: np.ndarray | None, scores: Scores) -> Case:
    shown = ("niqe", "dark_channel") if truth is None else ("psnr", "ssim")
    heads = {"psnr": "dB", "ssim": "SSIM", "niqe": "NIQE", "dark_channel": "dark"}

    def caption(values: Values) -> str:
        return ", ".join(f"{text(each, values[each])} {heads[each]}" for each in shown)

    panels = [
        panel("rainy", rainy, caption(scores.rainy)),
        panel("output", output, caption(scores.output)),
    ]
    if truth is not None:
        panels.append(panel("truth", truth, ""))
    gain = scores.gain[shown[0]]
    return Case(name, gain if truth is not None else -gain, tuple(panels))
