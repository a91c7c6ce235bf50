"""Takes the rain out of a clip in VapourSynth, with a network that vs-mlrt runs.

    derain-engine export sid-lite -o sid-lite-vs.onnx --for vapoursynth
    pip install vapoursynth vapoursynth-mlrt-ov

In a script of yours:

    from vapoursynth_derain import derain
    clip = derain(core.bs.VideoSource("rain.mkv"), "sid-lite-vs.onnx")

By itself it cleans a test picture with drawn streaks and says what changed:

    python vapoursynth_derain.py sid-lite-vs.onnx

The network takes sides that are multiples of 32 (what `derain-engine export` prints as "Sides"). Other clips are padded
at the bottom and right by reflection and cropped afterwards, which is what derain-engine itself does.
"""

from __future__ import annotations

import argparse
from typing import Any

import vapoursynth as vs  # pyright: ignore[reportMissingImports]

core: Any = vs.core


def pad(clip: Any, multiple: int) -> Any:
    """Pad by reflection without repeating the edge; by the edge where a side is not longer than what it lacks."""
    right, bottom = -clip.width % multiple, -clip.height % multiple
    if right:
        if right < clip.width:
            strip = core.std.CropAbs(clip, right, clip.height, left=clip.width - 1 - right)
            more = strip.std.FlipHorizontal()
        else:
            edge = core.std.CropAbs(clip, 1, clip.height, left=clip.width - 1)
            more = core.std.StackHorizontal([edge] * right)
        clip = core.std.StackHorizontal([clip, more])
    if bottom:
        if bottom < clip.height:
            more = core.std.CropAbs(clip, clip.width, bottom, top=clip.height - 1 - bottom).std.FlipVertical()
        else:
            edge = core.std.CropAbs(clip, clip.width, 1, top=clip.height - 1)
            more = core.std.StackVertical([edge] * bottom)
        clip = core.std.StackVertical([clip, more])
    return clip


def derain(clip: Any, network: str, multiple: int = 32, matrix: str = "709") -> Any:
    """Return the clip without its rain, in its own format.

    Args:
        clip: of constant format and size.
        network: of `derain-engine export --for vapoursynth`.
        multiple: of the network's sides.
        matrix: of a clip in YUV.
    """
    given = clip.format
    in_yuv = given.color_family == vs.YUV
    rgb = core.resize.Bicubic(clip, format=vs.RGBS, **({"matrix_in_s": matrix} if in_yuv else {}))
    padded = pad(rgb, multiple)
    clean = core.ov.Model([padded], network_path=network)
    clean = core.std.CropAbs(clean, clip.width, clip.height)
    return core.resize.Bicubic(clean, format=given.id, **({"matrix_s": matrix} if in_yuv else {}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="of derain-engine export --for vapoursynth")
    parser.add_argument("--multiple", type=int, default=32, help="of the network's sides (%(default)s)")
    arguments = parser.parse_args()
    dark = core.std.BlankClip(width=140, height=90, format=vs.RGB24, length=3, color=[90, 100, 110])
    streak = core.std.BlankClip(dark, width=2, height=30, color=[200, 200, 200])
    gap = core.std.BlankClip(dark, width=12, height=30)
    row = core.std.StackHorizontal([gap, streak] * 10)
    rainy = core.std.StackVertical([row] * 3)
    clean = derain(rainy, arguments.network, arguments.multiple)
    change = core.std.PlaneStats(rainy, clean)
    print(f"{clean.width}x{clean.height} {clean.format.name}, {clean.num_frames} frames")
    for number, frame in enumerate(change.frames()):
        print(f"frame {number}: mean change {255 * frame.props['PlaneStatsDiff']:.2f} of 255")


if __name__ == "__main__":
    main()
