/* As much of a TVM RPC server as a run needs (runtime/remote/protocol.py), for a machine that TVM is not installed on: it loads a kernel
   library that is sent to it, and calls its kernels by the ABI of TVM's FFI (tvm/ffi/c_api.h, tvm/runtime/c_backend_api.h).

   kernel_server FOLDER    prints its port, puts libraries into FOLDER, and serves one client after the other

   The parts of a parallel loop run one after the other, as many as runtime.config_threadpool says (at first two). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SHUTDOWN = 1, INIT_SERVER, CALL_FUNCTION, RETURN, EXCEPTION, COPY_FROM, COPY_TO, COPY_ACK, GET_FUNCTION, ALLOCATE = 13, FREE };
enum { NONE, INT, BOOL, FLOAT, HANDLE, DTYPE, DEVICE, TENSOR, TEXT, BYTES, FUNCTION = 68, MODULE = 73 };
enum { MAGIC = 0xFF271, MOST_VALUES = 64, MOST_DIMS = 8, MOST_NAME = 4096 };

typedef struct {
    void *data;
    int32_t device, device_index, ndim;
    uint8_t dtype_code, dtype_bits;
    uint16_t dtype_lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} Tensor; /* DLTensor */

typedef struct {
    int32_t type;
    uint32_t padding;
    union { int64_t integer; double real; void *pointer; } value;
} Any; /* TVMFFIAny */

typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);
typedef struct { void *sync; int32_t tasks; } Group; /* TVMParallelGroupEnv */

static const char *const functions[] = {
    "", "tvm.rpc.server.upload", "tvm.rpc.server.load_module", "tvm.rpc.server.ModuleGetFunction", "runtime.config_threadpool",
};
enum { UPLOAD = 1, LOAD, FIND, THREADS, KNOWN };

static int connection, session, threads = 2;
static const char *folder;
static char error[4096];

/* -- what kernels call -- */

int TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    snprintf(error, sizeof error, "%s: ", kind);
    for (int i = 0; i < count; i++)
        if (parts[i]) strncat(error, parts[i], sizeof error - strlen(error) - 1);
    return 0;
}

static int launch(int (*body)(int, Group *, void *), void *data, int tasks) {
    Group group = {NULL, tasks ? tasks : threads};
    for (int task = 0; task < group.tasks; task++)
        if (body(task, &group, data)) return -1;
    return 0;
}

static void *take_workspace(int device, int index, uint64_t size, int code, int bits) {
    (void)device, (void)index, (void)code, (void)bits;
    return aligned_alloc(64, (size + 63) / 64 * 64);
}

static int free_workspace(int device, int index, void *data) {
    (void)device, (void)index;
    free(data);
    return 0;
}

/* -- packets -- */

static char *packet, *at;

static void leave(const char *why) {
    fprintf(stderr, "kernel_server: %s\n", why);
    exit(1);
}

static int receive(void *into, uint64_t size) {
    for (char *to = into; size;) {
        ssize_t found = read(connection, to, size);
        if (found <= 0) return 0;
        to += found, size -= found;
    }
    return 1;
}

static void answer(const void *data, uint64_t size) {
    for (const char *from = data; size;) {
        ssize_t sent = send(connection, from, size, MSG_NOSIGNAL);
        if (sent <= 0) return;
        from += sent, size -= sent;
    }
}

static void head(int32_t code, uint64_t size) {
    size += sizeof code;
    answer(&size, sizeof size), answer(&code, sizeof code);
}

static void values(int32_t code, const char *content, uint64_t size, int32_t count) {
    head(code, sizeof count + size), answer(&count, sizeof count), answer(content, size);
}

static void nothing(void) { values(RETURN, "\0\0\0\0", 4, 1); }

static void handle(uint64_t number) {
    char content[12] = {HANDLE};
    memcpy(content + 4, &number, sizeof number), values(RETURN, content, sizeof content, 1);
}

static void returned(int kind, uint64_t number) { /* what a call gives: its type, and the value */
    char content[12 + 12] = {INT};
    content[12] = kind, memcpy(content + 16, &number, sizeof number);
    values(RETURN, content, kind == NONE ? 16 : 24, 2);
}

static void failed(const char *text) {
    char content[12 + sizeof error] = {TEXT};
    uint64_t size = strlen(text);
    memcpy(content + 4, &size, sizeof size), memcpy(content + 12, text, size), values(EXCEPTION, content, 12 + size, 1);
}

static void next(void *into, uint64_t size) { memcpy(into, at, size), at += size; }

static int64_t shapes[MOST_VALUES][MOST_DIMS];
static Tensor tensors[MOST_VALUES];
static Any given[MOST_VALUES];
static uint64_t sizes[MOST_VALUES]; /* of texts and bytes */

static void next_tensor(int slot) {
    Tensor *tensor = &tensors[slot];
    *tensor = (Tensor){.shape = shapes[slot]};
    next(&tensor->data, 8), next(&tensor->device, 8), next(&tensor->ndim, 4), next(&tensor->dtype_code, 4);
    if (tensor->ndim > MOST_DIMS) leave("too many dimensions");
    next(shapes[slot], 8 * tensor->ndim), next(&tensor->byte_offset, 8);
}

static int next_values(void) {
    int32_t count;
    next(&count, sizeof count);
    if (count > MOST_VALUES) leave("too many values");
    for (int i = 0; i < count; i++) {
        Any *value = &given[i];
        *value = (Any){0};
        next(&value->type, 4);
        switch (value->type) {
        case NONE: break;
        case INT: case BOOL: case FLOAT: case HANDLE: case FUNCTION: case MODULE: case DEVICE: case DTYPE: next(&value->value, 8); break;
        case TENSOR: next_tensor(i), value->value.pointer = &tensors[i]; break;
        case TEXT: case BYTES: next(&sizes[i], 8), value->value.pointer = at, at += sizes[i]; break;
        default: leave("a value of a type that no run sends");
        }
    }
    return count;
}

/* -- functions -- */

static char *path_of(int slot) { /* of its own in each session: the loader takes a path for a library that it has loaded */
    static char path[2 * MOST_NAME];
    snprintf(path, sizeof path, "%s/%d-%.*s", folder, session, (int)sizes[slot], (char *)given[slot].value.pointer);
    return path;
}

static void set_symbol(void *library, const char *name, void *function) {
    void **place = dlsym(library, name);
    if (place) *place = function;
}

static void load(void) {
    void *library = dlopen(path_of(0), RTLD_NOW | RTLD_LOCAL);
    if (!library) return failed(dlerror());
    set_symbol(library, "__TVMBackendParallelLaunch", launch);
    set_symbol(library, "__TVMBackendAllocWorkspace", take_workspace);
    set_symbol(library, "__TVMBackendFreeWorkspace", free_workspace);
    returned(MODULE, (uint64_t)library);
}

static void call(void) {
    uint64_t function;
    next(&function, sizeof function);
    int count = next_values();
    if (function == UPLOAD) {
        FILE *file = fopen(path_of(0), "wb");
        if (!file || fwrite(given[1].value.pointer, 1, sizes[1], file) != sizes[1] || fclose(file)) leave("the library cannot be written");
        returned(NONE, 0);
    } else if (function == LOAD) {
        load();
    } else if (function == FIND) {
        char name[MOST_NAME];
        snprintf(name, sizeof name, "__tvm_ffi_%.*s", (int)sizes[1], (char *)given[1].value.pointer);
        void *found = dlsym(given[0].value.pointer, name);
        found ? returned(FUNCTION, (uint64_t)found) : failed(name);
    } else if (function == THREADS) {
        threads = given[1].value.integer, returned(NONE, 0);
    } else {
        Any result = {0};
        ((Kernel)function)(NULL, given, count, &result) ? failed(error) : returned(NONE, 0);
    }
}

static void serve(void) {
    int32_t greeting[2], code, answers[2] = {MAGIC, 0};
    char key[MOST_NAME];
    if (!receive(greeting, 4) || greeting[0] != MAGIC) return;
    if (!receive(greeting + 1, 4) || greeting[1] > MOST_NAME || !receive(key, greeting[1])) return;
    int at_once = 1; /* an answer goes in several writes, none of which is to wait for the client's acknowledgement */
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    answer(answers, sizeof answers);
    for (uint64_t size; receive(&size, sizeof size); free(packet)) {
        packet = at = malloc(size);
        if (!packet || !receive(packet, size)) return;
        next(&code, sizeof code);
        if (code == SHUTDOWN) return;
        if (code == INIT_SERVER) nothing();
        else if (code == CALL_FUNCTION) call();
        else if (code == GET_FUNCTION) {
            next_values();
            uint64_t found = 1;
            while (found < KNOWN && (strlen(functions[found]) != sizes[0] || memcmp(functions[found], given[0].value.pointer, sizes[0]))) found++;
            handle(found % KNOWN);
        } else if (code == ALLOCATE) {
            next_values();
            uint64_t bytes = (given[1].value.integer + 63) / 64 * 64;
            void *space = aligned_alloc(64, bytes ? bytes : 64);
            if (!space) leave("no memory");
            memset(space, 0xA5, bytes); /* a kernel that writes too little is seen */
            handle((uint64_t)space);
        } else if (code == FREE) {
            next_values(), free(given[1].value.pointer), nothing();
        } else if (code == COPY_TO || code == COPY_FROM) {
            uint64_t bytes;
            next_tensor(0), next(&bytes, sizeof bytes);
            char *data = (char *)tensors[0].data + tensors[0].byte_offset;
            if (code == COPY_TO) memcpy(data, at, bytes), nothing();
            else head(COPY_ACK, bytes), answer(data, bytes);
        } else leave("a packet that no run sends");
    }
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (count != 2) leave("expected one argument, a folder");
    folder = arguments[1];
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 8) || getsockname(listener, (struct sockaddr *)&address, &size))
        leave("cannot listen");
    printf("%d\n", ntohs(address.sin_port)), fflush(stdout);
    while ((connection = accept(listener, NULL, NULL)) >= 0) session++, serve(), close(connection);
    return 1;
}
