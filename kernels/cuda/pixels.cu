// The entry points of derain_kernels.h: check the arguments, then run a body of pixels.cuh over its grid, on
// the device or on the host.
#include <cuda_runtime.h>

#include <cstdint>

#include "pixels.cuh"

namespace {

using namespace derain;

// A warp takes 32 neighbours of one row, so that its accesses lie side by side. Memory limits these kernels:
// a thread with several pixels would save instructions, not bytes.
constexpr int kBlockWidth = 32;
constexpr int kBlockHeight = 8;

template <class Body>
__global__ void over_grid(const Body body, int width, int height) {
    const int x = blockIdx.x * kBlockWidth + threadIdx.x;
    const int y = blockIdx.y * kBlockHeight + threadIdx.y;
    if (x < width && y < height) body(x, y);
}

struct OnDevice {
    cudaStream_t stream;

    template <class Body>
    int operator()(const Body &body, int width, int height) const {
        const dim3 block(kBlockWidth, kBlockHeight);
        const dim3 grid((width + kBlockWidth - 1) / kBlockWidth, (height + kBlockHeight - 1) / kBlockHeight);
        over_grid<<<grid, block, 0, stream>>>(body, width, height);
        const cudaError_t error = cudaGetLastError();
        return error == cudaSuccess ? DERAIN_OK : DERAIN_CUDA_ERROR + static_cast<int>(error);
    }
};

struct OnHost {
    template <class Body>
    int operator()(const Body &body, int width, int height) const {
        for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) body(x, y);
        }
        return DERAIN_OK;
    }
};

int check_size(int width, int height) {
    const bool fits =
        width >= 1 && width <= DERAIN_LONGEST_SIDE && height >= 1 && height <= DERAIN_LONGEST_SIDE;
    return fits ? DERAIN_OK : DERAIN_BAD_SIZE;
}

int check(const derain_rgb8 *image) {
    if (image == nullptr || image->pixels == nullptr) return DERAIN_NULL_POINTER;
    if (const int status = check_size(image->width, image->height)) return status;
    if (image->pitch < int64_t{3} * image->width) return DERAIN_BAD_PITCH;
    if (image->order != DERAIN_RGB && image->order != DERAIN_BGR) return DERAIN_BAD_COLOUR;
    return DERAIN_OK;
}

int check(const derain_nv12 *image) {
    if (image == nullptr || image->luma == nullptr || image->chroma == nullptr) return DERAIN_NULL_POINTER;
    if (const int status = check_size(image->width, image->height)) return status;
    if (image->luma_pitch < image->width) return DERAIN_BAD_PITCH;
    if (image->chroma_pitch < int64_t{2} * ((image->width + 1) / 2)) return DERAIN_BAD_PITCH;
    if (image->range != DERAIN_LIMITED && image->range != DERAIN_FULL) return DERAIN_BAD_COLOUR;
    switch (image->matrix) {
        case DERAIN_BT709:
        case DERAIN_BT601_625:
        case DERAIN_BT601_525:
        case DERAIN_BT2020:
            return DERAIN_OK;
        default:
            return DERAIN_BAD_COLOUR;
    }
}

int check(const derain_frame *frame) {
    if (frame == nullptr || frame->values == nullptr) return DERAIN_NULL_POINTER;
    if (const int status = check_size(frame->width, frame->height)) return status;
    if (frame->channels != 4 && frame->channels != 8) return DERAIN_BAD_CHANNELS;
    if (frame->pitch < int64_t{2} * frame->channels * frame->width) return DERAIN_BAD_PITCH;
    const unsigned alignment = 2 * frame->channels;
    const auto address = reinterpret_cast<std::uintptr_t>(frame->values);
    if (address % alignment != 0 || frame->pitch % alignment != 0) return DERAIN_BAD_ALIGNMENT;
    return DERAIN_OK;
}

template <class Image>
int check(const Image *image, const derain_frame *frame) {
    if (const int status = check(image)) return status;
    if (const int status = check(frame)) return status;
    return frame->width >= image->width && frame->height >= image->height ? DERAIN_OK : DERAIN_BAD_SIZE;
}

template <class Image>
int check(const Image *image, const derain_frame *frame, const derain_frame *rain) {
    if (const int status = check(image, frame)) return status;
    if (rain == nullptr) return DERAIN_OK;
    if (const int status = check(rain)) return status;
    return rain->width == frame->width && rain->height == frame->height ? DERAIN_OK : DERAIN_BAD_SIZE;
}

const derain_rgb8 &prepare(const derain_rgb8 &image) {
    return image;
}

Rgb scaled(double scale, double r, double g, double b) {
    return {static_cast<float>(scale * r), static_cast<float>(scale * g), static_cast<float>(scale * b)};
}

Nv12 prepare(const derain_nv12 &image) {
    const bool bt709 = image.matrix == DERAIN_BT709, bt2020 = image.matrix == DERAIN_BT2020;
    const double kr = bt709 ? 0.2126 : bt2020 ? 0.2627 : 0.299;
    const double kb = bt709 ? 0.0722 : bt2020 ? 0.0593 : 0.114;
    const double kg = 1 - kr - kb;
    const double cb_span = 2 * (1 - kb), cr_span = 2 * (1 - kr);  // of B' - luma and R' - luma
    const bool limited = image.range == DERAIN_LIMITED;
    const double luma_steps = limited ? 219 : 255, chroma_steps = limited ? 224 : 255;

    YCbCr colour{};
    colour.black = limited ? 16.0f : 0.0f;
    colour.luma = static_cast<float>(1 / luma_steps);
    colour.cb = scaled(cb_span / chroma_steps, 0, -kb / kg, 1);
    colour.cr = scaled(cr_span / chroma_steps, 1, -kr / kg, 0);
    colour.y = scaled(luma_steps, kr, kg, kb);
    colour.u = scaled(chroma_steps / cb_span, -kr, -kg, 1 - kb);
    colour.v = scaled(chroma_steps / cr_span, 1 - kr, -kg, -kb);
    return {image, colour};
}

template <class Image, class Run>
int to_frame(const Image *image, const derain_frame *frame, Run run) {
    if (const int status = check(image, frame)) return status;
    const auto source = prepare(*image);
    const ToFrame<decltype(source)> body{source, image->width, image->height, *frame};
    return run(body, frame->width, frame->height);
}

Clean clean(const derain_frame *frame, const derain_frame *rain) {
    return {*frame, rain == nullptr ? derain_frame{} : *rain};
}

template <class Run>
int to_rgb8(const derain_frame *frame, const derain_frame *rain, const derain_rgb8 *image, Run run) {
    if (const int status = check(image, frame, rain)) return status;
    return run(ToRgb8{clean(frame, rain), *image}, image->width, image->height);
}

template <class Run>
int to_nv12(const derain_frame *frame, const derain_frame *rain, const derain_nv12 *image, Run run) {
    if (const int status = check(image, frame, rain)) return status;
    const ToNv12 body{clean(frame, rain), prepare(*image)};
    return run(body, (image->width + 1) / 2, (image->height + 1) / 2);
}

OnDevice on(void *stream) {
    return {static_cast<cudaStream_t>(stream)};
}

}  // namespace

int derain_rgb8_to_frame(const derain_rgb8 *image, const derain_frame *frame, void *stream) {
    return to_frame(image, frame, on(stream));
}

int derain_rgb8_to_frame_host(const derain_rgb8 *image, const derain_frame *frame) {
    return to_frame(image, frame, OnHost{});
}

int derain_nv12_to_frame(const derain_nv12 *image, const derain_frame *frame, void *stream) {
    return to_frame(image, frame, on(stream));
}

int derain_nv12_to_frame_host(const derain_nv12 *image, const derain_frame *frame) {
    return to_frame(image, frame, OnHost{});
}

int derain_frame_to_rgb8(const derain_frame *frame, const derain_frame *rain, const derain_rgb8 *image,
                         void *stream) {
    return to_rgb8(frame, rain, image, on(stream));
}

int derain_frame_to_rgb8_host(const derain_frame *frame, const derain_frame *rain, const derain_rgb8 *image) {
    return to_rgb8(frame, rain, image, OnHost{});
}

int derain_frame_to_nv12(const derain_frame *frame, const derain_frame *rain, const derain_nv12 *image,
                         void *stream) {
    return to_nv12(frame, rain, image, on(stream));
}

int derain_frame_to_nv12_host(const derain_frame *frame, const derain_frame *rain, const derain_nv12 *image) {
    return to_nv12(frame, rain, image, OnHost{});
}
