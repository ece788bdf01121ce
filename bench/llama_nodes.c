/* An evaluation callback for llama.cpp that writes every computed tensor to a file: what a person would write to dump
   a forward pass there, in C, so that the comparison is with llama.cpp and not with Python.

   Compiled against no header: the few functions used are exported by libggml-base. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

extern const char *ggml_get_name(const void *tensor);
extern const char *ggml_op_desc(const void *tensor);
extern void *ggml_get_data(const void *tensor);
extern size_t ggml_nbytes(const void *tensor);

static char directory[2048];
static long files;
static size_t bytes;

void dump_begin(const char *path) {
    snprintf(directory, sizeof directory, "%s", path);
    files = 0;
    bytes = 0;
}

long dump_files(void) { return files; }
size_t dump_bytes(void) { return bytes; }

/* Views and cache writes hold nothing that another node does not. */
static bool computes(const void *tensor) {
    static const char *const views[] = {"VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE", "SET_ROWS", "NONE", "CPY", "CONT"};
    const char *op = ggml_op_desc(tensor);
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        if (strcmp(op, views[i]) == 0) return false;
    return true;
}

bool dump_node(void *tensor, bool ask, void *user) {
    (void)user;
    if (!computes(tensor)) return false;
    if (ask) return true;
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/%ld-", directory, files);
    snprintf(path + length, sizeof path - (size_t)length, "%s.raw", ggml_get_name(tensor));
    for (char *c = path + length; *c; c++)
        if (*c == '/' || *c == ' ') *c = '_';
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    size_t size = ggml_nbytes(tensor);
    bool whole = fwrite(ggml_get_data(tensor), 1, size, file) == size;
    if (fclose(file) != 0 || !whole) return false;
    files++;
    bytes += size;
    return true;
}
