// Pictures to the padded fp32 planes of networks in other people's runtimes, and back: what TensorRT sessions launch
// around a plan. Built into planar.ptx (make ptx), which the driver compiles for whatever GPU is there.
//
// A picture is 3 x height x width (planar) or height x width x 3, RGB, uint8 or float. Below and to the right it is
// padded by reflection without repeating the edge, or by the edge where a side is not longer than its padding. Bytes
// are divided by 255 and come back as floor(255 * clamp(y, 0, 1) + 0.5), NaN as 0.
#include <cstdint>

namespace {

constexpr int kThreads = 256;

__device__ int padding_source(int i, int side, int padded) {
    if (i < side) return i;
    return side > padded - side ? 2 * (side - 1) - i : side - 1;
}

// Where a colour of a pixel lies in a picture.
__device__ int64_t place(int x, int y, int colour, int width, int height, int planar) {
    const int64_t pixel = int64_t{y} * width + x;
    return planar ? colour * (int64_t{width} * height) + pixel : pixel * 3 + colour;
}

__device__ bool next_pixel(int width, int height, int *x, int *y) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    *y = static_cast<int>(i / width);
    *x = static_cast<int>(i % width);
    return *y < height;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    derain_planar_in(const void *picture, float *planes, int height, int width, int picture_height,
                     int picture_width, int planar, int bytes) {
    int x, y;
    if (!next_pixel(width, height, &x, &y)) return;
    const int from_x = padding_source(x, picture_width, width);
    const int from_y = padding_source(y, picture_height, height);
    for (int colour = 0; colour < 3; ++colour) {
        const int64_t at = place(from_x, from_y, colour, picture_width, picture_height, planar);
        const float value = bytes ? static_cast<const uint8_t *>(picture)[at] / 255.0f
                                  : static_cast<const float *>(picture)[at];
        planes[place(x, y, colour, width, height, 1)] = value;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    derain_planar_out(const float *planes, void *picture, int height, int width, int picture_height,
                      int picture_width, int planar, int bytes) {
    int x, y;
    if (!next_pixel(picture_width, picture_height, &x, &y)) return;
    for (int colour = 0; colour < 3; ++colour) {
        const float value = planes[place(x, y, colour, width, height, 1)];
        const int64_t at = place(x, y, colour, picture_width, picture_height, planar);
        if (bytes) {
            const float inside = value > 0 ? (value < 1 ? value : 1) : 0;  // NaN is not greater than 0
            static_cast<uint8_t *>(picture)[at] = static_cast<uint8_t>(inside * 255.0f + 0.5f);
        } else {
            static_cast<float *>(picture)[at] = value;
        }
    }
}
