/* Pixels to network frames and back on NVIDIA GPUs, for programs in C, C++ and whatever calls C.
 *
 * A frame is what a network reads and writes: fp16, NHWC, RGB in [0, 1], padded at the bottom and right to
 * the sides that the network needs. An image is what cameras, decoders and encoders hold: 8-bit packed RGB or
 * BGR, or NV12 (a plane of luma and a plane of interleaved U and V at half the resolution).
 *
 *     image --derain_*_to_frame--> frame --the network--> frame --derain_frame_to_*--> image
 *
 * Every function comes twice. `derain_NAME` queues its work on a CUDA stream and returns. The structs are
 * read before it returns; the memory that they point to is memory of the current device, or memory that it
 * can reach, and must live until the stream has passed. `derain_NAME_host` runs the same code in the calling
 * thread, from and to host memory, and needs neither a GPU nor a driver.
 *
 * The caller owns all memory; nothing is allocated here and nothing is kept between calls. Functions may be
 * called from several threads at once. Sources are only read. Source and target must not overlap. Bytes
 * between the end of a row and the next row are neither read nor written. Nothing is thrown, printed or
 * aborted: every function returns a status, and on one between DERAIN_OK and DERAIN_CUDA_ERROR no pixel was
 * read or written.
 */
#ifndef DERAIN_KERNELS_H
#define DERAIN_KERNELS_H

#include <stdint.h>

#if !defined(_WIN32)
#define DERAIN_API __attribute__((visibility("default")))
#elif defined(derain_kernels_EXPORTS)
#define DERAIN_API __declspec(dllexport)
#else
#define DERAIN_API __declspec(dllimport)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a program built against an older header could no longer call the library safely. */
#define DERAIN_KERNELS_ABI 1

/* Longest side of an image or a frame, in pixels. */
#define DERAIN_LONGEST_SIDE 65536

/* What functions return: one of these, or DERAIN_CUDA_ERROR plus the cudaError_t that the launch gave. */
enum derain_status {
    DERAIN_OK = 0,
    DERAIN_NULL_POINTER = 1,  /* a struct, or a pointer to pixels inside one, is NULL */
    DERAIN_BAD_SIZE = 2,      /* a side outside 1 to DERAIN_LONGEST_SIDE, or sizes that do not fit together */
    DERAIN_BAD_PITCH = 3,     /* a pitch shorter than its row */
    DERAIN_BAD_ALIGNMENT = 4, /* a frame's address or pitch, see derain_frame */
    DERAIN_BAD_CHANNELS = 5,  /* a frame whose pixels are not 4 or 8 values long */
    DERAIN_BAD_COLOUR = 6,    /* an unknown order, matrix or range; zero is none of them on purpose */
    DERAIN_CUDA_ERROR = 1000
};

/* Order of the three bytes of a pixel. */
enum derain_order { DERAIN_RGB = 1, DERAIN_BGR = 2 };

/* Matrix between R'G'B' and Y'CbCr. The numbers are those of ITU-T H.273, hence those of video streams and of
 * FFmpeg's AVColorSpace. The two of BT.601 are the same matrix. BT.2020 is the non-constant-luminance one. */
enum derain_matrix { DERAIN_BT709 = 1, DERAIN_BT601_625 = 5, DERAIN_BT601_525 = 6, DERAIN_BT2020 = 9 };

/* Range of Y'CbCr codes: luma 16 to 235 and chroma 16 to 240, or both 0 to 255. The numbers are those of
 * FFmpeg's AVColorRange. */
enum derain_range { DERAIN_LIMITED = 1, DERAIN_FULL = 2 };

/* An image of packed 8-bit pixels, 3 bytes each. */
typedef struct derain_rgb8 {
    void *pixels;
    int64_t pitch;  /* bytes from one row to the next, at least 3 * width */
    int32_t width;  /* pixels */
    int32_t height; /* pixels */
    int32_t order;  /* enum derain_order */
} derain_rgb8;

/* An image of 8-bit Y'CbCr 4:2:0 in two planes.
 *
 * Of an odd width or height the chroma plane has the half rounded up, and its last pairs belong to the pixels
 * that exist. Chroma is sited at the centre of its 2x2 pixels: read, it serves all of them alike; written, it
 * is their mean. So the colours of an image whose true siting is another do not drift on the way there and
 * back. */
typedef struct derain_nv12 {
    void *luma;
    void *chroma;         /* U and V interleaved, U first */
    int64_t luma_pitch;   /* bytes from one row to the next, at least width */
    int64_t chroma_pitch; /* bytes from one row to the next, at least 2 * ((width + 1) / 2) */
    int32_t width;        /* of the luma plane, pixels */
    int32_t height;       /* of the luma plane, pixels */
    int32_t matrix;       /* enum derain_matrix */
    int32_t range;        /* enum derain_range */
} derain_nv12;

/* A frame: height x width pixels of fp16 values, R, G, B and as many zeros as are left of `channels`. Where
 * three channels are wanted, a view of the first three serves.
 *
 * Address and pitch are multiples of a pixel's bytes (8 or 16), so that a pixel moves in one access. */
typedef struct derain_frame {
    void *values;
    int64_t pitch;    /* bytes from one row to the next, at least 2 * channels * width */
    int32_t width;    /* padded, pixels */
    int32_t height;   /* padded, pixels */
    int32_t channels; /* fp16 values from one pixel to the next: 4 or 8 */
} derain_frame;

/* DERAIN_KERNELS_ABI of the library that is loaded, to be compared with that of the header. */
DERAIN_API int derain_kernels_abi(void);

/* What a status means, in English, without a full stop; static, never NULL. */
DERAIN_API const char *derain_status_string(int status);

/* Fill a frame from an image: v / 255, rounded to the nearest fp16.
 *
 * frame: at least as large as the image. What lies beyond the image is filled from it, each axis by itself:
 *     mirrored without repeating the last pixel (NumPy's `reflect`), or, where the image is not longer than
 *     what is missing, by repeating the last pixel (`edge`). Channels beyond the third become 0.
 * stream: a CUstream or cudaStream_t of the current device; NULL is the default stream. */
DERAIN_API int derain_rgb8_to_frame(const derain_rgb8 *image, const derain_frame *frame, void *stream);
DERAIN_API int derain_rgb8_to_frame_host(const derain_rgb8 *image, const derain_frame *frame);

/* As derain_rgb8_to_frame, from Y'CbCr. Codes outside the RGB cube are clamped to it. */
DERAIN_API int derain_nv12_to_frame(const derain_nv12 *image, const derain_frame *frame, void *stream);
DERAIN_API int derain_nv12_to_frame_host(const derain_nv12 *image, const derain_frame *frame);

/* Fill an image from the top left of a frame: floor(255 * min(max(y, 0), 1) + 0.5); NaN gives 0.
 *
 * frame: at least as large as the image, which crops it.
 * rain: a layer that is subtracted from the frame first, in fp32. It has the frame's width and height; its
 *     channels may differ. NULL: the frame is clean already.
 * stream: as above. */
DERAIN_API int derain_frame_to_rgb8(const derain_frame *frame, const derain_frame *rain,
                                    const derain_rgb8 *image, void *stream);
DERAIN_API int derain_frame_to_rgb8_host(const derain_frame *frame, const derain_frame *rain,
                                         const derain_rgb8 *image);

/* As derain_frame_to_rgb8, to Y'CbCr. Pixels are clamped to [0, 1] as RGB, chroma is the mean over the pixels
 * that share it, codes are rounded half up. */
DERAIN_API int derain_frame_to_nv12(const derain_frame *frame, const derain_frame *rain,
                                    const derain_nv12 *image, void *stream);
DERAIN_API int derain_frame_to_nv12_host(const derain_frame *frame, const derain_frame *rain,
                                         const derain_nv12 *image);

#ifdef __cplusplus
}
#endif

#endif
