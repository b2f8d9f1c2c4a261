/* The C interface around the generated code of one model; ${name}.h documents it. Compiled for the least CPU of its
   kind, so that it can say what a machine lacks. */
#include "${name}.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#else
#include <sys/auxv.h>
#endif

/* --- what the generated code and this shell agree on (hasten/vm/abi.py) ------------------------------------------- */
enum { WORD_CONSTANTS = ${word_constants}, WORD_PARALLEL = ${word_parallel}, WORD_THREADS = ${word_threads}, WORD_LIMIT = ${word_limit} };
enum { WORD_DEPTH = ${word_depth}, MAX_DEPTH = ${max_depth}, STATUS_DEPTH = ${status_depth} };
enum { STATUS_MEMORY = ${status_memory}, STATUS_SHAPE = ${status_shape}, STATUS_INPUT = ${status_input}, FIRST_CHECK = ${first_check} };
enum { BLOCK_HEADER = ${block_header}, BLOCK_RAW = ${block_raw} }; /* an output lies behind a header that holds what to free */
enum { THREADS = ${threads}, INPUTS = ${input_count}, OUTPUTS = ${output_count}, INPUT_WORDS = ${input_words}, OUTPUT_WORDS = ${output_words} };

typedef void kernel_function(int64_t *args, int64_t thread, int64_t threads);
extern int64_t hst_context[];
extern const char hst_constants[];
int64_t hst_run(int64_t *inputs, int64_t *outputs, int64_t *info);
int64_t hst_shapes(int64_t *inputs, int64_t *outputs);
void hst_trim(void);
void hst_parallel(kernel_function *kernel, int64_t *args, int64_t threads);
void hst_pool_reset(void);
int64_t hst_poll(void);

/* --- tables of this model ----------------------------------------------------------------------------------------- */
static const hasten_info input_infos[INPUTS + 1] = {
${inputs}
};
static const hasten_info output_infos[OUTPUTS + 1] = {
${outputs}
};
typedef struct { bool shape; const char *text; } check_row;
static const check_row checks[] = { /* by number; their two sides are told by the run */
${checks}
};
static const char *const sites[] = { /* what kernels that may fail work for, by number from 1 */
${sites}
};
static const char *const status_texts[] = {
${statuses}
};
typedef struct { hasten_dtype dtype; size_t size; const char *name; } dtype_row;
static const dtype_row dtype_rows[] = {
${dtype_rows}
};

/* --- errors ------------------------------------------------------------------------------------------------------- */
static _Thread_local char message[1024];

const char *${name}_error(void) { return message; }

__attribute__((format(printf, 2, 3))) static hasten_status fail(hasten_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return status;
}

/* "(1, 3, 224)" */
static const char *shape_text(char *buffer, size_t room, int32_t rank, const int64_t *shape) {
    size_t at = (size_t)snprintf(buffer, room, "(");
    for (int32_t axis = 0; axis < rank && at < room; ++axis)
        at += (size_t)snprintf(buffer + at, room - at, "%s%lld", axis ? ", " : "", (long long)shape[axis]);
    if (at < room) snprintf(buffer + at, room - at, ")");
    return buffer;
}

static const char *sizes_text(char *buffer, size_t room, const hasten_info *info) {
    size_t at = (size_t)snprintf(buffer, room, "(");
    for (int32_t axis = 0; axis < info->rank && at < room; ++axis)
        at += (size_t)snprintf(buffer + at, room - at, "%s%s", axis ? ", " : "", info->sizes[axis]);
    if (at < room) snprintf(buffer + at, room - at, ")");
    return buffer;
}

/* --- the CPU ------------------------------------------------------------------------------------------------------ */
#if defined(__x86_64__)
typedef struct { const char *name; uint32_t leaf, subleaf, reg, bit; uint64_t state; } feature_row;
static const feature_row features[] = {
${features}
    {NULL, 0, 0, 0, 0, 0}};

/* The register state that the operating system saves (XCR0). */
static uint64_t saved_state(void) {
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has_feature(const feature_row *row) {
    uint32_t regs[4] = {0};
    if (!__get_cpuid_count(row->leaf, row->subleaf, &regs[0], &regs[1], &regs[2], &regs[3])) return false;
    return (regs[row->reg] >> row->bit & 1) && (row->state == 0 || (saved_state() & row->state) == row->state);
}

/* Tile registers must be asked for, once for each process. */
static bool permitted(void) { return !${uses_tiles} || syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
#else
typedef struct { const char *name; unsigned long bits; } feature_row;
static const feature_row features[] = {
${features}
    {NULL, 0}};

static bool has_feature(const feature_row *row) { return (getauxval(AT_HWCAP) & row->bits) == row->bits; }
static bool permitted(void) { return true; }
#endif

static char lacking[512]; /* features that this machine lacks, separated by commas */

static void find_lacking(void) {
    size_t at = 0;
    for (const feature_row *row = features; row->name; ++row)
        if (!has_feature(row) && at < sizeof lacking)
            at += (size_t)snprintf(lacking + at, sizeof lacking - at, "%s%s", at ? ", " : "", row->name);
    if (!at && !permitted()) snprintf(lacking, sizeof lacking, "the system's permission to use tile registers");
}

/* --- models ------------------------------------------------------------------------------------------------------- */
struct ${name}_model {
    int32_t threads;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int32_t living;                 /* models that are not destroyed */
static _Thread_local int64_t allowed;  /* threads of the run that this thread is in */

/* The driver asks for as many threads as the library was compiled for; the model may allow fewer. */
static void parallel(kernel_function *kernel, int64_t *args, int64_t threads) {
    hst_parallel(kernel, args, threads < allowed ? threads : allowed);
}

int64_t hst_poll(void) { return 0; }

static void set_up(void) {
    find_lacking();
    if (lacking[0]) return;
    hst_context[WORD_CONSTANTS] = (int64_t)(intptr_t)hst_constants;
    hst_context[WORD_PARALLEL] = (int64_t)(intptr_t)parallel;
    hst_context[WORD_THREADS] = THREADS;
    hst_context[WORD_LIMIT] = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE);
    hst_context[WORD_DEPTH] = MAX_DEPTH;
    pthread_atfork(NULL, NULL, hst_pool_reset); /* the child of a fork has none of the pool's threads */
}

int32_t ${name}_api(void) { return HASTEN_API; }
const char *${name}_version(void) { return ${version_text}; }

hasten_status ${name}_create(int32_t threads, ${name}_model **model) {
    if (!model) return fail(HASTEN_BAD_ARGUMENT, "the place for the model is NULL");
    *model = NULL;
    if (threads < 0 || threads > THREADS)
        return fail(HASTEN_BAD_ARGUMENT, "threads is %d: this library was compiled for 1 to %d (0: all of these)", threads, THREADS);
    pthread_once(&once, set_up);
    if (lacking[0])
        return fail(HASTEN_UNSUPPORTED_CPU, "this library was compiled for %s instructions, and this machine lacks %s", "${isa}", lacking);
    ${name}_model *made = malloc(sizeof *made);
    if (!made) return fail(HASTEN_OUT_OF_MEMORY, "no memory for a model");
    made->threads = threads ? threads : THREADS;
    __atomic_add_fetch(&living, 1, __ATOMIC_SEQ_CST);
    *model = made;
    return HASTEN_OK;
}

void ${name}_destroy(${name}_model *model) {
    if (!model) return;
    free(model);
    if (__atomic_sub_fetch(&living, 1, __ATOMIC_SEQ_CST) == 0) hst_trim();
}

int32_t ${name}_threads(const ${name}_model *model) { return model ? model->threads : 0; }
int32_t ${name}_input_count(void) { return INPUTS; }
int32_t ${name}_output_count(void) { return OUTPUTS; }
const hasten_info *${name}_input(int32_t number) { return number >= 0 && number < INPUTS ? &input_infos[number] : NULL; }
const hasten_info *${name}_output(int32_t number) { return number >= 0 && number < OUTPUTS ? &output_infos[number] : NULL; }
void ${name}_trim(void) { hst_trim(); }

/* --- runs --------------------------------------------------------------------------------------------------------- */
static const dtype_row *dtype_of(hasten_dtype dtype) {
    for (size_t i = 0; i < sizeof dtype_rows / sizeof *dtype_rows; ++i)
        if (dtype_rows[i].dtype == dtype) return &dtype_rows[i];
    return NULL;
}

/* The bytes of an array of that shape; false where a size is negative or the product does not fit. */
static bool bytes_of(const hasten_info *info, const int64_t *shape, size_t *bytes) {
    *bytes = dtype_of(info->dtype)->size;
    bool empty = false, overflow = false;
    for (int32_t axis = 0; axis < info->rank; ++axis) {
        if (shape[axis] < 0) return false;
        empty |= shape[axis] == 0;
        overflow |= __builtin_mul_overflow(*bytes, (size_t)shape[axis], bytes);
    }
    if (empty) *bytes = 0;
    return empty || !overflow;
}

static hasten_status check_input(const hasten_info *info, const hasten_tensor *tensor, bool with_data) {
    char given[256], taken[256];
    const dtype_row *want = dtype_of(info->dtype), *got = dtype_of(tensor->dtype);
    if (want != got)
        return fail(HASTEN_BAD_ARGUMENT, "input '%s': its dtype is %s (%d), the model takes %s", info->name, got ? got->name : "unknown",
                    (int)tensor->dtype, want->name);
    if (tensor->rank != info->rank)
        return fail(HASTEN_BAD_ARGUMENT, "input '%s': its rank is %d, the model takes %s", info->name, tensor->rank,
                    sizes_text(taken, sizeof taken, info));
    size_t bytes;
    if (!bytes_of(info, tensor->shape, &bytes))
        return fail(HASTEN_BAD_SHAPE, "input '%s': its shape %s is negative or too large", info->name,
                    shape_text(given, sizeof given, info->rank, tensor->shape));
    if (!with_data) return HASTEN_OK;
    if (bytes && !tensor->data) return fail(HASTEN_BAD_ARGUMENT, "input '%s': its data is NULL", info->name);
    if (tensor->bytes < bytes)
        return fail(HASTEN_BAD_ARGUMENT, "input '%s': its memory has %zu bytes, its shape %s needs %zu", info->name, tensor->bytes,
                    shape_text(given, sizeof given, info->rank, tensor->shape), bytes);
    if ((uintptr_t)tensor->data % want->size)
        return fail(HASTEN_BAD_ARGUMENT, "input '%s': its data is not aligned to its elements of %zu bytes", info->name, want->size);
    return HASTEN_OK;
}

/* The inputs as words for the generated code: of each its address and its sizes. */
static hasten_status read_inputs(const hasten_tensor *inputs, int64_t *words, bool with_data) {
    for (int32_t number = 0; number < INPUTS; ++number) {
        const hasten_info *info = &input_infos[number];
        hasten_status status = check_input(info, &inputs[number], with_data);
        if (status != HASTEN_OK) return status;
        *words++ = (int64_t)(intptr_t)inputs[number].data;
        for (int32_t axis = 0; axis < info->rank; ++axis) *words++ = inputs[number].shape[axis];
    }
    return HASTEN_OK;
}

/* All inputs as they are and as the model takes them. */
static hasten_status bad_sizes(const hasten_tensor *inputs) {
    char all[900] = "", given[256], taken[256];
    size_t at = 0;
    for (int32_t number = 0; number < INPUTS && at < sizeof all; ++number)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s'%s' is %s, the model takes %s", number ? "; " : "", input_infos[number].name,
                               shape_text(given, sizeof given, inputs[number].rank, inputs[number].shape),
                               sizes_text(taken, sizeof taken, &input_infos[number]));
    return fail(HASTEN_BAD_SHAPE, "the sizes of the inputs do not fit: %s", all);
}

static hasten_status failed_run(int64_t code, const int64_t *info, const hasten_tensor *inputs) {
    if (code == STATUS_INPUT) return bad_sizes(inputs);
    if (code == STATUS_DEPTH) return fail(HASTEN_RUN_FAILED, "the recursion is too deep: more than %d activations wait for each other", MAX_DEPTH);
    if (code >= FIRST_CHECK) {
        const check_row *check = &checks[code - FIRST_CHECK];
        return fail(check->shape ? HASTEN_BAD_SHAPE : HASTEN_RUN_FAILED, "%s does not hold: %lld and %lld)", check->text,
                    (long long)info[0], (long long)info[1]);
    }
    int64_t known = (int64_t)(sizeof status_texts / sizeof *status_texts), named = (int64_t)(sizeof sites / sizeof *sites);
    const char *where = info[0] > 0 && info[0] < named ? sites[info[0]] : NULL;
    hasten_status status = code == STATUS_MEMORY ? HASTEN_OUT_OF_MEMORY : code == STATUS_SHAPE ? HASTEN_BAD_SHAPE : HASTEN_RUN_FAILED;
    return fail(status, "%s%s%s", where ? where : "", where ? ": " : "", code < known ? status_texts[code] : "a kernel failed");
}

static void free_block(void *data) { free(*(void **)((char *)data - BLOCK_HEADER + BLOCK_RAW)); }

static void describe(hasten_tensor *output, const hasten_info *info, const int64_t *sizes) {
    output->dtype = info->dtype;
    output->rank = info->rank;
    for (int32_t axis = 0; axis < info->rank; ++axis) output->shape[axis] = sizes[axis];
}

hasten_status ${name}_output_shapes(const ${name}_model *model, const hasten_tensor *inputs, hasten_tensor *outputs) {
    int64_t words_in[INPUT_WORDS + 1], words_out[OUTPUT_WORDS + 1];
    if (!model || (INPUTS && !inputs) || (OUTPUTS && !outputs)) return fail(HASTEN_BAD_ARGUMENT, "model, inputs or outputs is NULL");
    hasten_status status = read_inputs(inputs, words_in, false);
    if (status != HASTEN_OK) return status;
    if (hst_shapes(words_in, words_out) != 0) return bad_sizes(inputs);
    const int64_t *words = words_out;
    for (int32_t number = 0; number < OUTPUTS; ++number) {
        const hasten_info *info = &output_infos[number];
        outputs[number] = (hasten_tensor){0};
        describe(&outputs[number], info, words + 1);
        if (!bytes_of(info, words + 1, &outputs[number].bytes)) outputs[number].bytes = 0;
        words += 1 + info->rank;
    }
    return HASTEN_OK;
}

/* Hands the blocks of a run over, or copies them to where the caller wants them; frees what the caller does not get. */
static hasten_status give_outputs(hasten_tensor *outputs, const int64_t *words) {
    void *blocks[OUTPUTS + 1];
    size_t bytes[OUTPUTS + 1];
    hasten_status status = HASTEN_OK;
    for (int32_t number = 0; number < OUTPUTS; words += 1 + output_infos[number++].rank) {
        const hasten_info *info = &output_infos[number];
        hasten_tensor *output = &outputs[number];
        blocks[number] = (void *)(intptr_t)words[0];
        describe(output, info, words + 1);
        bytes_of(info, words + 1, &bytes[number]);
        if (output->data && output->bytes < bytes[number] && status == HASTEN_OK)
            status = fail(HASTEN_TOO_SMALL, "output '%s': it has %zu bytes, the memory given for it %zu", info->name, bytes[number], output->bytes);
    }
    for (int32_t number = 0; number < OUTPUTS; ++number) {
        hasten_tensor *output = &outputs[number];
        if (status == HASTEN_OK && !output->data) {
            output->data = output->owned = blocks[number];
            output->bytes = bytes[number];
            continue;
        }
        if (status == HASTEN_OK && bytes[number]) memcpy(output->data, blocks[number], bytes[number]);
        free_block(blocks[number]);
    }
    return status;
}

hasten_status ${name}_run(${name}_model *model, const hasten_tensor *inputs, hasten_tensor *outputs) {
    int64_t words_in[INPUT_WORDS + 1], words_out[OUTPUT_WORDS + 1], info[2] = {0, 0};
    if (!model || (INPUTS && !inputs) || (OUTPUTS && !outputs)) return fail(HASTEN_BAD_ARGUMENT, "model, inputs or outputs is NULL");
    hasten_status status = read_inputs(inputs, words_in, true);
    if (status != HASTEN_OK) return status;
    allowed = model->threads;
    int64_t code = hst_run(words_in, words_out, info);
    return code ? failed_run(code, info, inputs) : give_outputs(outputs, words_out);
}

void ${name}_release(hasten_tensor *output) {
    if (!output || !output->owned) return;
    free_block(output->owned);
    output->data = output->owned = NULL;
    output->bytes = 0;
}
