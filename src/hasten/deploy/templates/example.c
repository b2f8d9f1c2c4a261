/* Runs the model once, on made-up inputs, and prints what comes out.

   Build:  ${build}
   Run:    ${run} */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "${name}.h"

/* The size that the command line gives as NAME=NUMBER; 1 where it does not. */
static int64_t size_named(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 1; i < argc; ++i)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return atoll(argv[i] + length + 1);
    return 1;
}

/* An input of the shape that the model takes: floats 0, 0.1, ... 0.9, 0, 0.1, ...; all else is 0. Free its data. */
static hasten_tensor make_input(int argc, char **argv, const hasten_info *info, size_t element_bytes) {
    hasten_tensor tensor = {.dtype = info->dtype, .rank = info->rank};
    size_t count = 1;
    for (int32_t axis = 0; axis < info->rank; ++axis) {
        tensor.shape[axis] = info->shape[axis] >= 0 ? info->shape[axis] : size_named(argc, argv, info->sizes[axis]);
        count *= (size_t)tensor.shape[axis];
    }
    tensor.bytes = count * element_bytes;
    tensor.data = calloc(count ? count : 1, element_bytes);
    if (info->dtype == HASTEN_FLOAT32)
        for (size_t i = 0; tensor.data && i < count; ++i) ((float *)tensor.data)[i] = (float)(i % 10) / 10;
    return tensor;
}

static void print_output(const hasten_info *info, const hasten_tensor *tensor) {
    size_t count = 1;
    printf("%s: shape (", info->name);
    for (int32_t axis = 0; axis < tensor->rank; ++axis) {
        printf(axis ? ", %lld" : "%lld", (long long)tensor->shape[axis]);
        count *= (size_t)tensor->shape[axis];
    }
    printf(")");
    for (size_t i = 0; info->dtype == HASTEN_FLOAT32 && i < count && i < 8; ++i) printf(" %.9g", ((float *)tensor->data)[i]);
    printf("\n");
}

int main(int argc, char **argv) {
    static const size_t element_bytes[] = {${element_bytes}};
    hasten_tensor inputs[${inputs_room}] = {{0}}, outputs[${outputs_room}] = {{0}};
    ${name}_model *model = NULL;
    hasten_status status = ${name}_create(0, &model);
    printf("%s\n", ${name}_version());
    for (int32_t i = 0; i < ${name}_input_count(); ++i) inputs[i] = make_input(argc, argv, ${name}_input(i), element_bytes[i]);
    if (status == HASTEN_OK) status = ${name}_run(model, inputs, outputs); /* outputs[i].data is NULL: the library gives memory */
    if (status == HASTEN_OK)
        for (int32_t i = 0; i < ${name}_output_count(); ++i) print_output(${name}_output(i), &outputs[i]);
    else
        fprintf(stderr, "error %d: %s\n", (int)status, ${name}_error());
    for (int32_t i = 0; i < ${name}_output_count(); ++i) ${name}_release(&outputs[i]);
    for (int32_t i = 0; i < ${name}_input_count(); ++i) free(inputs[i].data);
    ${name}_destroy(model);
    return status == HASTEN_OK ? 0 : 1;
}
