// What the library says about itself and about a status.
#include <cuda_runtime_api.h>

#include "derain_kernels.h"

int derain_kernels_abi(void) {
    return DERAIN_KERNELS_ABI;
}

const char *derain_status_string(int status) {
    switch (status) {
        case DERAIN_OK:
            return "done";
        case DERAIN_NULL_POINTER:
            return "a struct or a pointer to pixels is NULL";
        case DERAIN_BAD_SIZE:
            return "a side is outside 1 to DERAIN_LONGEST_SIDE, the frame is smaller than the image, or the "
                   "rain layer has not the frame's size";
        case DERAIN_BAD_PITCH:
            return "a pitch is shorter than its row in bytes";
        case DERAIN_BAD_ALIGNMENT:
            return "a frame's address or pitch is not a multiple of its pixels' bytes";
        case DERAIN_BAD_CHANNELS:
            return "a frame's pixels are not 4 or 8 values long";
        case DERAIN_BAD_COLOUR:
            return "the order, matrix or range is not one of those in derain_kernels.h";
        default:
            break;
    }
    if (status > DERAIN_CUDA_ERROR)
        return cudaGetErrorString(static_cast<cudaError_t>(status - DERAIN_CUDA_ERROR));
    return "not a status of derain_kernels";
}
