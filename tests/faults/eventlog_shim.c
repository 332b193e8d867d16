/* Loaded before libc (LD_PRELOAD) into a program that knows nothing of it: ends the program at the n-th
 * operation that changes a file below FAULT_ROOT, and sets its wall clock wrong.
 *
 *   FAULT_ROOT=DIR      only files below DIR count
 *   FAULT_COUNT=FILE    eight bytes: operations so far, of all threads
 *   FAULT_KILL=N        SIGKILL at operation N ...
 *   FAULT_MODE=before   ... instead of it (default), `after` it, or `torn`: in the middle of a write
 *   FAULT_CLOCK=FILE    eight bytes: microseconds added to the wall clock, read at every call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long long kill_at;
static int after, torn;
static _Atomic long long own_count;
static _Atomic long long *count = &own_count;
static volatile int64_t *clock_offset;

static void *shared(const char *variable) {
    const char *path = getenv(variable);
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return NULL;
    void *memory = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

__attribute__((constructor)) static void set_up(void) {
    const char *given = getenv("FAULT_ROOT");
    if (given && realpath(given, root)) root_length = strlen(root);
    given = getenv("FAULT_KILL");
    kill_at = given ? atoll(given) : 0;
    given = getenv("FAULT_MODE");
    after = given && !strcmp(given, "after");
    torn = given && !strcmp(given, "torn");
    void *memory = shared("FAULT_COUNT");
    if (memory) count = memory;
    clock_offset = shared("FAULT_CLOCK");
}

/* The same as the variables, for a program that forks what is to be killed. */
void fault_arm(const char *directory, long long number, const char *mode) {
    if (realpath(directory, root)) root_length = strlen(root);
    after = !strcmp(mode, "after");
    torn = !strcmp(mode, "torn");
    *count = 0;
    kill_at = number;
}

static int below(const char *path) {
    return root_length && !strncmp(path, root, root_length) && path[root_length] == '/';
}

static int below_fd(int file) {
    char link[64], path[PATH_MAX];
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count an operation. True: this is the one; the caller does it (after) or half of it (torn), and dies. */
static int doomed(int counts) {
    if (!counts || ++*count != kill_at) return 0;
    if (!after && !torn) die();
    return 1;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

/* An operation that cannot be done by halves. */
#define WHOLE(result, name, counts, parameters, arguments) \
    result name parameters { \
        static result (*real) parameters; \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name); \
        int last = doomed(counts); \
        if (last && torn) die(); \
        result answer = real arguments; \
        if (last) die(); \
        return answer; \
    }

WHOLE(int, fsync, below_fd(file), (int file), (file))
WHOLE(int, fdatasync, below_fd(file), (int file), (file))
WHOLE(int, close, below_fd(file), (int file), (file))
WHOLE(int, rename, below(to), (const char *from, const char *to), (from, to))
WHOLE(int, unlink, below(path), (const char *path), (path))
WHOLE(int, rmdir, below(path), (const char *path), (path))
WHOLE(int, mkdir, below(path), (const char *path, mode_t mode), (path, mode))
WHOLE(int, truncate, below(path), (const char *path, off_t size), (path, size))
WHOLE(int, truncate64, below(path), (const char *path, off64_t size), (path, size))
WHOLE(int, ftruncate, below_fd(file), (int file, off_t size), (file, size))
WHOLE(int, ftruncate64, below_fd(file), (int file, off64_t size), (file, size))

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int last = doomed((flags & O_CREAT) && below(path)); \
        if (last && torn) die(); \
        int answer = real(path, flags, mode); \
        if (last) die(); \
        return answer; \
    }

OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    int last = doomed(below_fd(file));
    ssize_t answer = real(file, data, last && torn ? size / 2 : size);
    if (last) die();
    return answer;
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    int last = doomed(below_fd(file));
    if (!last || !torn) {
        ssize_t answer = real(file, parts, number);
        if (last) die();
        return answer;
    }
    struct iovec half = {parts[number / 2].iov_base, parts[number / 2].iov_len / 2};
    if (number / 2) real(file, parts, number / 2);
    real(file, &half, 1);
    die();
    return -1;
}

int clock_gettime(clockid_t which, struct timespec *at) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int answer = real(which, at);
    if (!answer && which == CLOCK_REALTIME && clock_offset) {
        int64_t nanoseconds = at->tv_nsec + (*clock_offset % 1000000) * 1000;
        at->tv_sec += *clock_offset / 1000000 + (nanoseconds < 0 ? -1 : nanoseconds / 1000000000);
        at->tv_nsec = nanoseconds < 0 ? nanoseconds + 1000000000 : nanoseconds % 1000000000;
    }
    return answer;
}
