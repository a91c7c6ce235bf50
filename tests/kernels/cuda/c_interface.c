/* derain_kernels.h from C99: a picture goes to a padded frame and comes back, on the host. */
#include <derain_kernels.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 5, HEIGHT = 3, SIDE = 8, CHANNELS = 4 };

static int failures = 0;

static void expect(int truth, const char *what) {
    if (!truth) {
        fprintf(stderr, "failed: %s\n", what);
        ++failures;
    }
}

int main(void) {
    unsigned char rainy[HEIGHT][WIDTH][3], clean[HEIGHT][WIDTH][3];
    uint64_t values[SIDE][SIDE]; /* one pixel of four fp16 each, which also aligns them */
    for (int i = 0; i < HEIGHT * WIDTH * 3; ++i) (&rainy[0][0][0])[i] = (unsigned char)(17 * i);
    memset(clean, 0, sizeof clean);

    const derain_rgb8 source = {rainy, sizeof rainy[0], WIDTH, HEIGHT, DERAIN_RGB};
    const derain_rgb8 target = {clean, sizeof clean[0], WIDTH, HEIGHT, DERAIN_RGB};
    const derain_frame frame = {values, sizeof values[0], SIDE, SIDE, CHANNELS};

    expect(derain_kernels_abi() == DERAIN_KERNELS_ABI, "the library is the header's");
    expect(derain_rgb8_to_frame_host(&source, &frame) == DERAIN_OK, "to a frame");
    expect(values[0][WIDTH] == values[0][WIDTH - 2], "the width is mirrored");
    expect(values[HEIGHT][0] == values[HEIGHT - 1][0], "the height is too short and repeats its edge");
    expect(derain_frame_to_rgb8_host(&frame, NULL, &target) == DERAIN_OK, "and back");
    expect(memcmp(rainy, clean, sizeof rainy) == 0, "unchanged");

    const int status = derain_rgb8_to_frame_host(NULL, &frame);
    expect(status == DERAIN_NULL_POINTER, "NULL is refused");
    expect(strstr(derain_status_string(status), "NULL") != NULL, "by name");
    return failures != 0;
}
