/* A library for LD_PRELOAD: counts the operations that change files under a folder, and lets the n-th fail or kill.
 *
 * Counted are: opening a file to write, write, fsync, rename, truncation, making a folder; and, where the process is
 * to be killed, also removing a file or folder (a disk that is full still removes files).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long count = 0, target = 0;
static int failure = 0; /* an errno; -1: kill before the operation; -2: kill after half of a write */
static int lasting = 0; /* whether all operations after the n-th fail, too */

void faults_arm(const char *path, long n, int how, int lasts) {
    strncpy(folder, path, sizeof folder - 1);
    count = 0, target = n, failure = how, lasting = lasts;
}

long faults_count(void) { return count; }

static int is_inside(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_inside_fd(int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (!folder[0] || length <= 0) return 0;
    path[length] = 0;
    return is_inside(path);
}

/* Return whether the operation must fail; errno is set. */
static int count_operation(int removes) {
    if (removes && failure > 0) return 0;
    count++;
    if (count != target && !(lasting && target && count > target)) return 0;
    if (failure == -1) kill(getpid(), SIGKILL);
    if (failure > 0) { errno = failure; return 1; }
    return 0;
}

#define NEXT(type, name) static type (*next)() = 0; if (!next) next = dlsym(RTLD_NEXT, name)

#define OPEN(function, name, before, pass)                                               \
    int function(before const char *path, int flags, ...) {                              \
        static int (*next)(before const char *, int, ...) = 0;                           \
        if (!next) next = dlsym(RTLD_NEXT, name);                                        \
        mode_t mode = 0;                                                                 \
        va_list rest;                                                                    \
        va_start(rest, flags);                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t);                  \
        va_end(rest);                                                                    \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_inside(path) && count_operation(0)) return -1; \
        return next(pass path, flags, mode);                                             \
    }
#define COMMA ,
OPEN(open, "open", , )
OPEN(open64, "open64", , )
OPEN(openat, "openat", int at COMMA, at COMMA)
OPEN(openat64, "openat64", int at COMMA, at COMMA)

#define WRITE(function, name, more, pass)                                                \
    ssize_t function(int fd, const void *data, size_t size more) {                       \
        static ssize_t (*next)(int, const void *, size_t, ...) = 0;                      \
        if (!next) next = dlsym(RTLD_NEXT, name);                                        \
        if (is_inside_fd(fd)) {                                                          \
            if (failure == -2 && count + 1 == target) {                                  \
                next(fd, data, size / 2 pass);                                           \
                kill(getpid(), SIGKILL);                                                 \
            }                                                                            \
            if (count_operation(0)) return -1;                                           \
        }                                                                                \
        return next(fd, data, size pass);                                                \
    }
WRITE(write, "write", , )
WRITE(pwrite, "pwrite", COMMA off_t offset, COMMA offset)
WRITE(pwrite64, "pwrite64", COMMA off64_t offset, COMMA offset)

ssize_t writev(int fd, const struct iovec *parts, int number) {
    NEXT(ssize_t, "writev");
    if (is_inside_fd(fd) && count_operation(0)) return -1;
    return next(fd, parts, number);
}

/* NumPy writes arrays to files so. */
size_t fwrite(const void *data, size_t size, size_t number, FILE *file) {
    static size_t (*next)(const void *, size_t, size_t, FILE *) = 0;
    if (!next) next = dlsym(RTLD_NEXT, "fwrite");
    if (is_inside_fd(fileno(file))) {
        if (failure == -2 && count + 1 == target) {
            next(data, size, number / 2, file);
            fflush(file);
            kill(getpid(), SIGKILL);
        }
        if (count_operation(0)) return 0;
    }
    return next(data, size, number, file);
}

#define FD(function, name)                                       \
    int function(int fd) {                                       \
        NEXT(int, name);                                         \
        if (is_inside_fd(fd) && count_operation(0)) return -1;   \
        return next(fd);                                         \
    }
FD(fsync, "fsync")
FD(fdatasync, "fdatasync")

#define TRUNCATE(function, name, type)                           \
    int function(int fd, type length) {                          \
        static int (*next)(int, type) = 0;                       \
        if (!next) next = dlsym(RTLD_NEXT, name);                \
        if (is_inside_fd(fd) && count_operation(0)) return -1;   \
        return next(fd, length);                                 \
    }
TRUNCATE(ftruncate, "ftruncate", off_t)
TRUNCATE(ftruncate64, "ftruncate64", off64_t)

#define ALLOCATE(function, name, type)                                 \
    int function(int fd, type start, type length) {                    \
        static int (*next)(int, type, type) = 0;                       \
        if (!next) next = dlsym(RTLD_NEXT, name);                      \
        if (is_inside_fd(fd) && count_operation(0)) return errno;      \
        return next(fd, start, length);                                \
    }
ALLOCATE(posix_fallocate, "posix_fallocate", off_t)
ALLOCATE(posix_fallocate64, "posix_fallocate64", off64_t)

int rename(const char *from, const char *to) {
    NEXT(int, "rename");
    if (is_inside(to) && count_operation(0)) return -1;
    return next(from, to);
}

int mkdir(const char *path, mode_t mode) {
    static int (*next)(const char *, mode_t) = 0;
    if (!next) next = dlsym(RTLD_NEXT, "mkdir");
    if (is_inside(path) && count_operation(0)) return -1;
    return next(path, mode);
}

int unlink(const char *path) {
    NEXT(int, "unlink");
    if (is_inside(path) && count_operation(1)) return -1;
    return next(path);
}

int unlinkat(int at, const char *path, int flags) {
    static int (*next)(int, const char *, int) = 0;
    if (!next) next = dlsym(RTLD_NEXT, "unlinkat");
    if ((is_inside(path) || (path[0] != '/' && is_inside_fd(at))) && count_operation(1)) return -1;
    return next(at, path, flags);
}

int rmdir(const char *path) {
    NEXT(int, "rmdir");
    if (is_inside(path) && count_operation(1)) return -1;
    return next(path);
}
