/* Makes system calls of a program fail, for files below one folder: a library for LD_PRELOAD, see faults.py.
 *
 * What fails is said in a file of 4,096 bytes, FAULT_STATE, that all processes map: struct state. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ, WRITE, SYNC, NAME, MAKE, KINDS };
enum { NOTHING, FAIL, SHORTER, SLOW };

struct state {
    int kind, fault, number, lasting; /* which calls, what happens, errno, whether to all later ones too */
    long at, calls[KINDS];            /* from which call on, counted from 1; calls so far */
    char folder[2048];
};

static struct state *state;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_STATE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        state = found;
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(result, name, ...)                                                                                        \
    static result (*name##_)(__VA_ARGS__);                                                                             \
    if (!name##_)                                                                                                      \
        *(void **)&name##_ = real(#name);

static int below(const char *path) {
    size_t length = strlen(state->folder);
    return length && !strncmp(path, state->folder, length) && path[length] == '/';
}

static int ours(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = 0;
    return below(path);
}

/* Counts a call; returns what is to happen to it. */
static int fate(int kind) {
    long call = __sync_add_and_fetch(&state->calls[kind], 1);
    if (kind != state->kind || call < state->at || (call > state->at && !state->lasting))
        return NOTHING;
    if (state->fault == SLOW && call < state->at + 20)
        usleep(50000);
    errno = state->number;
    return state->fault == SLOW ? NOTHING : state->fault;
}

static int fate_of(int file, int kind) { return state && state->folder[0] && ours(file) ? fate(kind) : NOTHING; }
static int fate_at(const char *path, int kind) {
    char full[PATH_MAX * 2] = "";
    if (!state || !state->folder[0])
        return NOTHING;
    if (path[0] != '/' && getcwd(full, PATH_MAX))
        strcat(full, "/");
    strncat(full, path, PATH_MAX - 1);
    return below(full) ? fate(kind) : NOTHING;
}
static size_t less(int happens, size_t n) { return happens == SHORTER && n > 1 ? n / 2 : n; }

#define TRANSFER(name, kind, pointer, extra, pass)                                                                     \
    ssize_t name(int file, pointer data, size_t n extra) {                                                             \
        REAL(ssize_t, name, int, pointer, size_t extra)                                                                \
        int happens = fate_of(file, kind);                                                                             \
        return happens == FAIL ? -1 : name##_(file, data, less(happens, n) pass);                                      \
    }
#define COMMA ,
TRANSFER(read, READ, void *, , )
TRANSFER(pread, READ, void *, COMMA off_t at, COMMA at)
TRANSFER(pread64, READ, void *, COMMA off64_t at, COMMA at)
TRANSFER(write, WRITE, const void *, , )
TRANSFER(pwrite, WRITE, const void *, COMMA off_t at, COMMA at)
TRANSFER(pwrite64, WRITE, const void *, COMMA off64_t at, COMMA at)

ssize_t writev(int file, const struct iovec *parts, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int)
    int happens = fate_of(file, WRITE);
    return happens == FAIL ? -1 : writev_(file, parts, (int)less(happens, (size_t)n));
}

/* GDAL's files are streams of the C library, which completes what the system did in part: only errors reach GDAL. */
size_t fread(void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, fread, void *, size_t, size_t, FILE *)
    return fate_of(fileno(file), READ) == FAIL ? 0 : fread_(data, size, n, file);
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *)
    return fate_of(fileno(file), WRITE) == FAIL ? 0 : fwrite_(data, size, n, file);
}
int fflush(FILE *file) {
    REAL(int, fflush, FILE *)
    return file && fate_of(fileno(file), WRITE) == FAIL ? EOF : fflush_(file);
}
int fclose(FILE *file) {
    REAL(int, fclose, FILE *)
    int writes = (fcntl(fileno(file), F_GETFL) & O_ACCMODE) != O_RDONLY;
    int happens = writes ? fate_of(fileno(file), WRITE) : NOTHING, number = errno, code = fclose_(file);
    errno = happens == FAIL ? number : errno;
    return happens == FAIL ? EOF : code;
}

#define ON_FILE(name, kind, extra, pass)                                                                               \
    int name(int file extra) {                                                                                         \
        REAL(int, name, int extra)                                                                                     \
        return fate_of(file, kind) == FAIL ? -1 : name##_(file pass);                                                  \
    }
ON_FILE(fsync, SYNC, , )
ON_FILE(fdatasync, SYNC, , )
ON_FILE(ftruncate, MAKE, COMMA off_t size, COMMA size)
ON_FILE(ftruncate64, MAKE, COMMA off64_t size, COMMA size)

#define ON_NAMES(name)                                                                                                 \
    int name(const char *from, const char *to) {                                                                       \
        REAL(int, name, const char *, const char *)                                                                    \
        return fate_at(to, NAME) == FAIL ? -1 : name##_(from, to);                                                     \
    }
ON_NAMES(rename)
ON_NAMES(link)

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t)
    return fate_at(path, MAKE) == FAIL ? -1 : mkdir_(path, mode);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, name, const char *, int, ...)                                                                        \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return flags & O_CREAT && fate_at(path, MAKE) == FAIL ? -1 : name##_(path, flags, mode);                       \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode) {                                                                   \
        REAL(FILE *, name, const char *, const char *)                                                                 \
        return mode[0] != 'r' && fate_at(path, MAKE) == FAIL ? NULL : name##_(path, mode);                             \
    }
FOPEN(fopen)
FOPEN(fopen64)
