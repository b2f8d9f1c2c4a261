/* Runs a compiled model on inputs from files, in several threads, and writes its outputs to files.

   harness THREADS CALLERS ROUNDS OUT [SHAPE:FILE]...      SHAPE: sizes with x between, "2x3x8" ("" for a scalar)

   Each of CALLERS threads runs ROUNDS times, with memory of the library's and of its own by turns; all must agree to the
   bit. Output i is written to OUT.i, its shape printed. The status of a failure is the exit code + 100. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include HEADER

#define JOIN(a, b) a##_##b
#define NAME(model, function) JOIN(model, function)
#define CALL(function) NAME(MODEL, function)
#define MOST 32

static CALL(model) *model;
static hasten_tensor inputs[MOST], reference[MOST];
static int rounds;

static void fail(hasten_status status) {
    fprintf(stderr, "status %d: %s\n", (int)status, CALL(error)());
    CALL(destroy)(model);
    exit(100 + (int)status);
}

static void differ(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static hasten_tensor read_input(const hasten_info *info, char *text) {
    hasten_tensor tensor = {.dtype = info->dtype};
    char *file = strchr(text, ':');
    *file++ = 0;
    for (char *size = strtok(text, "x"); size; size = strtok(NULL, "x")) tensor.shape[tensor.rank++] = atoll(size);
    FILE *stream = fopen(file, "rb");
    if (!stream) differ("no such file");
    fseek(stream, 0, SEEK_END);
    tensor.bytes = (size_t)ftell(stream);
    rewind(stream);
    tensor.data = malloc(tensor.bytes + 1);
    if (fread(tensor.data, 1, tensor.bytes, stream) != tensor.bytes) differ("cannot read an input");
    fclose(stream);
    return tensor;
}

static void *call_often(void *unused) {
    int count = CALL(output_count)();
    for (int round = 0; round < rounds; ++round) {
        hasten_tensor outputs[MOST] = {{0}};
        if (round % 2)
            for (int i = 0; i < count; ++i) outputs[i].data = malloc(reference[i].bytes + 1), outputs[i].bytes = reference[i].bytes;
        hasten_status status = CALL(run)(model, inputs, outputs);
        if (status != HASTEN_OK) fail(status);
        for (int i = 0; i < count; ++i) {
            if (memcmp(outputs[i].shape, reference[i].shape, sizeof(int64_t) * (size_t)outputs[i].rank)) differ("shapes differ between runs");
            if (memcmp(outputs[i].data, reference[i].data, reference[i].bytes)) differ("outputs differ between runs");
            if (round % 2) free(outputs[i].data);
            CALL(release)(&outputs[i]);
        }
    }
    return unused;
}

/* Before the run: what output_shapes says must be what the run gives. */
static void check_shapes(void) {
    hasten_tensor told[MOST];
    hasten_status status = CALL(output_shapes)(model, inputs, told);
    if (status != HASTEN_OK) fail(status);
    for (int i = 0; i < CALL(output_count)(); ++i)
        for (int axis = 0; axis < told[i].rank; ++axis)
            if (told[i].shape[axis] >= 0 && told[i].shape[axis] != reference[i].shape[axis]) differ("output_shapes was wrong");
}

int main(int argc, char **argv) {
    pthread_t callers[MOST];
    int count = atoi(argv[2]);
    rounds = atoi(argv[3]);
    for (int i = 0; i < argc - 5 && i < CALL(input_count)(); ++i) inputs[i] = read_input(CALL(input)(i), argv[5 + i]);
    hasten_status status = CALL(create)(atoi(argv[1]), &model);
    if (status != HASTEN_OK) fail(status);
    status = CALL(run)(model, inputs, reference);
    if (status != HASTEN_OK) fail(status);
    check_shapes();
    for (int i = 0; i < count; ++i) pthread_create(&callers[i], NULL, call_often, NULL);
    for (int i = 0; i < count; ++i) pthread_join(callers[i], NULL);
    for (int i = 0; i < CALL(output_count)(); ++i) {
        char file[4096];
        snprintf(file, sizeof file, "%s.%d", argv[4], i);
        FILE *stream = fopen(file, "wb");
        fwrite(reference[i].data, 1, reference[i].bytes, stream);
        fclose(stream);
        for (int axis = 0; axis < reference[i].rank; ++axis) printf("%s%lld", axis ? "x" : "", (long long)reference[i].shape[axis]);
        printf("\n");
        CALL(release)(&reference[i]);
    }
    for (int i = 0; i < CALL(input_count)(); ++i) free(inputs[i].data);
    CALL(destroy)(model);
    return 0;
}
