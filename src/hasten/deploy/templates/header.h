/* ${name}.h: ${title}
   Compiled by Hasten ${version} for ${isa} instructions (${target}); a call uses up to ${threads} thread(s).

${signature}

   How to use it: _create once, _run as often as you like, _destroy at the end; example.c shows it. Everything may be
   called from several threads at once; only _destroy must come after the last use of its model. Functions that can fail
   return a hasten_status; ${name}_error() then says what was wrong. */
#ifndef HASTEN_MODEL_${name}_H
#define HASTEN_MODEL_${name}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the headers of all compiled models share. */
#ifndef HASTEN_API
#define HASTEN_API ${api}
#define HASTEN_MAX_RANK ${max_rank}

typedef enum hasten_status {
    HASTEN_OK = 0,
    HASTEN_BAD_ARGUMENT = 1,    /* a null pointer, a wrong element type or rank, too little memory behind an input */
    HASTEN_BAD_SHAPE = 2,       /* sizes that contradict the model or each other */
    HASTEN_TOO_SMALL = 3,       /* an output does not fit into the memory given for it; its shape is told */
    HASTEN_OUT_OF_MEMORY = 4,
    HASTEN_RUN_FAILED = 5,      /* the values of this run: an index out of range, a size that data made impossible */
    HASTEN_UNSUPPORTED_CPU = 6  /* this CPU, or its operating system, lacks instructions the model was compiled for */
} hasten_status;

/* Types of elements; the numbers are those of ONNX. Types of less than a byte take one byte an element. */
typedef enum hasten_dtype {
${dtypes}
} hasten_dtype;

/* An array: contiguous, the last axis innermost, aligned to its elements. Begin with = {0}.
   As an input: all of data, dtype, rank, shape, and bytes, the size of the memory behind data.
   As an output: with data and bytes, the result is copied there; with data NULL the library gives the memory, sets data
   and bytes, and NAME_release frees it. dtype, rank and shape are set by the run. */
typedef struct hasten_tensor {
    void *data;
    size_t bytes;
    hasten_dtype dtype;
    int32_t rank;
    int64_t shape[HASTEN_MAX_RANK];
    void *owned; /* the library's: leave it alone */
} hasten_tensor;

/* What an input or output is: a size that the caller chooses, or that only the run knows, is -1 in shape. sizes has the
   same as text: "3", the name of a size ("batch"), an expression of such names, or "?" (NAME_output_shapes, or else the run,
   tells it). */
typedef struct hasten_info {
    const char *name;
    hasten_dtype dtype;
    int32_t rank;
    int64_t shape[HASTEN_MAX_RANK];
    const char *sizes[HASTEN_MAX_RANK];
} hasten_info;
#endif

typedef struct ${name}_model ${name}_model;

/* HASTEN_API of the library, to compare with that of this header; and who made it, of what, for which machine. */
int32_t ${name}_api(void);
const char *${name}_version(void);

/* A model that uses up to that many threads (0: as many as it was compiled for, which is also the most). Checks that
   this CPU has the instructions. Weights and code are shared by all models of the process. */
hasten_status ${name}_create(int32_t threads, ${name}_model **model);
void ${name}_destroy(${name}_model *model); /* NULL is fine */
int32_t ${name}_threads(const ${name}_model *model);

/* Inputs and outputs; NULL for a number that does not exist. */
int32_t ${name}_input_count(void);
int32_t ${name}_output_count(void);
const hasten_info *${name}_input(int32_t number);
const hasten_info *${name}_output(int32_t number);

/* What a run with inputs of these shapes gives (their data is not looked at): sets dtype, rank, shape and owned of each
   output, data to NULL, and bytes to what the output needs. A size that only the run knows is -1, and bytes then 0. */
hasten_status ${name}_output_shapes(const ${name}_model *model, const hasten_tensor *inputs, hasten_tensor *outputs);

/* inputs: ${name}_input_count() tensors; outputs: ${name}_output_count(). After an error the outputs hold no data that
   was not there before. */
hasten_status ${name}_run(${name}_model *model, const hasten_tensor *inputs, hasten_tensor *outputs);

/* Frees memory that a run gave and sets data to NULL; does nothing for memory of the caller's. */
void ${name}_release(hasten_tensor *output);

/* Gives scratch memory that is kept between runs back to the system. */
void ${name}_trim(void);

/* What was wrong at this thread's last call that failed; "" before. Valid until the next call that fails. */
const char *${name}_error(void);

#ifdef __cplusplus
}
#endif
#endif
