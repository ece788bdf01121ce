/* Lets one call that writes below a folder fail, or that one and all later ones: loaded before the C library (LD_PRELOAD).

   FAULT_UNDER    the folder, absolute
   FAULT_STATE    a file of 256 bytes, shared by all processes: calls so far (u32), calls that failed (u32), the first failed call in words
   FAULT_AT       the number of the call that fails, counted from 1; 0: none does
   FAULT_ERRNO    how
   FAULT_STAYS    1: so do all later ones, as on a full disk */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
    uint32_t calls, failed;
    char first[248];
};
static struct state *state;
static const char *under;
static uint32_t fails_at;
static int with_errno, stays;

__attribute__((constructor)) static void begin(void) {
    const char *place = getenv("FAULT_STATE");
    int (*open_file)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    under = getenv("FAULT_UNDER");
    if (!place || !under) return;
    int file = open_file(place, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(0, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return;
    fails_at = atoi(getenv("FAULT_AT"));
    with_errno = atoi(getenv("FAULT_ERRNO"));
    stays = atoi(getenv("FAULT_STAYS"));
    state = mapped;
}

static int is_under(const char *path) {
    char whole[2 * PATH_MAX];
    if (!path) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, PATH_MAX)) return 0;
        strcat(whole, "/");
        strncat(whole, path, PATH_MAX - 1);
        path = whole;
    }
    return strncmp(path, under, strlen(under)) == 0;
}

/* Whether this call is to fail, and errno then. */
static int fails(const char *call, const char *path) {
    if (!state || !is_under(path)) return 0;
    uint32_t number = __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST);
    if (!fails_at || number < fails_at || (number > fails_at && !stays)) return 0;
    if (__atomic_add_fetch(&state->failed, 1, __ATOMIC_SEQ_CST) == 1) snprintf(state->first, sizeof state->first, "%s %s", call, path);
    errno = with_errno;
    return 1;
}

static int fails_on(const char *call, int file) {
    char link[64], path[PATH_MAX];
    if (!state) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0 || path[0] != '/') return 0; /* a pipe has no place */
    path[size] = 0;
    return fails(call, path);
}

#define ORIGINAL(name) __typeof__(&name) original = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define OF_PATH(name, path, parameters, arguments) \
    int name parameters { ORIGINAL(name); return fails(#name, path) ? -1 : original arguments; }
#define OF_FILE(type, name, parameters, arguments) \
    type name parameters { ORIGINAL(name); return fails_on(#name, file) ? -1 : original arguments; }
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        ORIGINAL(name); \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        return flags & (O_CREAT | O_WRONLY | O_RDWR) && fails(#name, path) ? -1 : original(path, flags, mode); \
    }
#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        ORIGINAL(name); \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        return flags & (O_CREAT | O_WRONLY | O_RDWR) && fails(#name, path) ? -1 : original(folder, path, flags, mode); \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
OF_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
OF_FILE(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
OF_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
OF_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
OF_FILE(int, fsync, (int file), (file))
OF_FILE(int, fdatasync, (int file), (file))
OF_FILE(int, syncfs, (int file), (file))
OF_FILE(int, fchmod, (int file, mode_t mode), (file, mode))
OF_PATH(rename, to, (const char *from, const char *to), (from, to))
OF_PATH(renameat, to, (int one, const char *from, int other, const char *to), (one, from, other, to))
OF_PATH(link, to, (const char *from, const char *to), (from, to))
OF_PATH(symlink, to, (const char *from, const char *to), (from, to))
OF_PATH(unlink, path, (const char *path), (path))
OF_PATH(rmdir, path, (const char *path), (path))
OF_PATH(mkdir, path, (const char *path, mode_t mode), (path, mode))
OF_PATH(chmod, path, (const char *path, mode_t mode), (path, mode))
