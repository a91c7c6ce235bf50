// One pixel from an image to a frame, and back. Layouts, ranges and rules are those of derain_kernels.h.
//
// Everything here compiles for host and device, in arithmetic that is defined to the last bit on both: fp32,
// only operations that IEEE 754 rounds correctly, and no fused multiply-add (the build forbids contraction).
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "derain_kernels.h"

#define DERAIN_HD __host__ __device__ inline

namespace derain {

struct Rgb {
    float r, g, b;
};

// The affine maps between 8-bit codes of Y'CbCr and R'G'B' in [0, 1] (ITU-T H.273, 8.3).
struct YCbCr {
    float black;  // the luma code of 0; the chroma code of 0 is 128
    float luma;   // what a step of luma adds to each of R', G', B'
    Rgb cb, cr;   // what a step of chroma adds to them
    Rgb y, u, v;  // the steps of luma, Cb and Cr in each of R', G', B'
};

// An NV12 image together with what reading and writing it needs.
struct Nv12 {
    derain_nv12 image;
    YCbCr colour;
};

DERAIN_HD uint8_t *row_of(void *plane, int64_t pitch, int y) {
    return static_cast<uint8_t *>(plane) + pitch * y;
}

DERAIN_HD float clamp01(float v) {
    return v > 0 ? (v < 1 ? v : 1) : 0;  // NaN is not greater than 0
}

DERAIN_HD Rgb clamp01(Rgb v) {
    return {clamp01(v.r), clamp01(v.g), clamp01(v.b)};
}

DERAIN_HD float dot(Rgb a, Rgb b) {
    return a.r * b.r + a.g * b.g + a.b * b.b;
}

DERAIN_HD uint8_t nearest_code(float v) {
    return static_cast<uint8_t>(v + 0.5f);  // truncation is floor here: nothing is negative
}

// Where position i of a padded axis comes from in an axis of `side` pixels.
DERAIN_HD int padding_source(int i, int side, int padded) {
    if (i < side) return i;
    return side > padded - side ? 2 * (side - 1) - i : side - 1;
}

// ---- One pixel of each kind of memory

DERAIN_HD Rgb read(const derain_rgb8 &image, int x, int y) {
    const uint8_t *v = row_of(image.pixels, image.pitch, y) + 3 * x;
    // In fp16 this is v / 255 for all 256 values, without the device's slow division.
    constexpr float step = 1.0f / 255;
    const Rgb pixel{v[0] * step, v[1] * step, v[2] * step};
    return image.order == DERAIN_RGB ? pixel : Rgb{pixel.b, pixel.g, pixel.r};
}

DERAIN_HD void write(const derain_rgb8 &image, int x, int y, Rgb pixel) {
    uint8_t *v = row_of(image.pixels, image.pitch, y) + 3 * x;
    const bool rgb = image.order == DERAIN_RGB;
    v[0] = nearest_code(255 * (rgb ? pixel.r : pixel.b));
    v[1] = nearest_code(255 * pixel.g);
    v[2] = nearest_code(255 * (rgb ? pixel.b : pixel.r));
}

DERAIN_HD Rgb read(const Nv12 &source, int x, int y) {
    const derain_nv12 &image = source.image;
    const YCbCr &c = source.colour;
    const uint8_t *uv = row_of(image.chroma, image.chroma_pitch, y / 2) + x / 2 * 2;
    const float luma = (row_of(image.luma, image.luma_pitch, y)[x] - c.black) * c.luma;
    const float cb = uv[0] - 128.0f, cr = uv[1] - 128.0f;
    return clamp01(Rgb{luma + cb * c.cb.r + cr * c.cr.r, luma + cb * c.cb.g + cr * c.cr.g,
                       luma + cb * c.cb.b + cr * c.cr.b});
}

// A frame's pixels move whole, in one access.
struct alignas(8) Half4 {
    __half r, g, b, unused;
};
struct alignas(16) Half8 {
    Half4 used, unused;
};

DERAIN_HD Rgb read(const derain_frame &frame, int x, int y) {
    const void *pixel = row_of(frame.values, frame.pitch, y) + int64_t{2} * frame.channels * x;
    const Half4 v = *static_cast<const Half4 *>(pixel);
    return {__half2float(v.r), __half2float(v.g), __half2float(v.b)};
}

DERAIN_HD void write(const derain_frame &frame, int x, int y, Rgb pixel) {
    void *row = row_of(frame.values, frame.pitch, y);
    Half4 v{};
    v.r = __float2half_rn(pixel.r);
    v.g = __float2half_rn(pixel.g);
    v.b = __float2half_rn(pixel.b);
    if (frame.channels == 4) {
        static_cast<Half4 *>(row)[x] = v;
    } else {
        static_cast<Half8 *>(row)[x] = {v, {}};
    }
}

// ---- What one thread does

// Pixel (x, y) of a padded frame.
template <class Source>
struct ToFrame {
    Source source;
    int width, height;  // of the source
    derain_frame frame;

    DERAIN_HD void operator()(int x, int y) const {
        const int from_x = padding_source(x, width, frame.width);
        const int from_y = padding_source(y, height, frame.height);
        write(frame, x, y, read(source, from_x, from_y));
    }
};

// The frame, less the rain where there is a layer of it, inside [0, 1].
struct Clean {
    derain_frame frame, rain;  // rain.values is null where there is none

    DERAIN_HD Rgb operator()(int x, int y) const {
        const Rgb v = read(frame, x, y);
        if (rain.values == nullptr) return clamp01(v);
        const Rgb layer = read(rain, x, y);
        return clamp01(Rgb{v.r - layer.r, v.g - layer.g, v.b - layer.b});
    }
};

// Pixel (x, y) of a packed image.
struct ToRgb8 {
    Clean clean;
    derain_rgb8 image;

    DERAIN_HD void operator()(int x, int y) const { write(image, x, y, clean(x, y)); }
};

// Chroma pair (x, y) of an NV12 image and the pixels that share it: four, at odd borders two or one.
struct ToNv12 {
    Clean clean;
    Nv12 target;

    DERAIN_HD void operator()(int x, int y) const {
        const derain_nv12 &image = target.image;
        const YCbCr &c = target.colour;
        // A pixel beyond an odd border is its neighbour over again, which changes neither luma nor mean.
        const int left = 2 * x, right = left + 1 < image.width ? left + 1 : left;
        const int top = 2 * y, bottom = top + 1 < image.height ? top + 1 : top;
        // All reads come before the first write: the compiler may not move them across it, and one after the
        // other they would each wait for memory.
        const Rgb p00 = clean(left, top), p01 = clean(right, top);
        const Rgb p10 = clean(left, bottom), p11 = clean(right, bottom);

        uint8_t *upper = row_of(image.luma, image.luma_pitch, top);
        uint8_t *lower = row_of(image.luma, image.luma_pitch, bottom);
        upper[left] = nearest_code(c.black + dot(c.y, p00));
        upper[right] = nearest_code(c.black + dot(c.y, p01));
        lower[left] = nearest_code(c.black + dot(c.y, p10));
        lower[right] = nearest_code(c.black + dot(c.y, p11));

        const Rgb mean{0.25f * (p00.r + p01.r + p10.r + p11.r), 0.25f * (p00.g + p01.g + p10.g + p11.g),
                       0.25f * (p00.b + p01.b + p10.b + p11.b)};
        uint8_t *uv = row_of(image.chroma, image.chroma_pitch, y) + left;
        uv[0] = chroma_code(dot(c.u, mean));
        uv[1] = chroma_code(dot(c.v, mean));
    }

    DERAIN_HD static uint8_t chroma_code(float steps) {
        const float code = 128 + steps;
        return nearest_code(code < 255 ? code : 255);  // full range would end at 255.5
    }
};

}  // namespace derain
