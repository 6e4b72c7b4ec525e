/* Fails or kills at the n-th change of a file below a folder. Loaded before the C library with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, TORN, NO_SPACE, IO_ERROR, DISK_FULL };

static char folder[4096];
static long steps, target;
static int mode;

void faults_arm(const char *path, long step, int kind) {
  snprintf(folder, sizeof folder, "%s", path);
  steps = 0;
  target = step;
  mode = kind;
}

void faults_disarm(void) { folder[0] = 0; }

long faults_count(void) { return steps; }

/* Returns 0 or the error of this step. */
static int fault(void) {
  long step = __sync_add_and_fetch(&steps, 1);
  if (mode == COUNT || step < target || (step > target && mode != DISK_FULL)) return 0;
  if (mode == KILL || mode == TORN) kill(getpid(), SIGKILL);
  return mode == IO_ERROR ? EIO : ENOSPC;
}

static int below(const char *path) { return folder[0] && strncmp(path, folder, strlen(folder)) == 0; }

static int is_counted(int fd) {
  char link[64], path[4096];
  if (!folder[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return below(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Writes half, and dies. */
#define TEAR(half)                                                                                        \
  if (mode == TORN && steps + 1 == target) {                                                              \
    half;                                                                                                 \
    kill(getpid(), SIGKILL);                                                                              \
  }
#define CHECK                                                                                             \
  {                                                                                                       \
    int error = fault();                                                                                  \
    if (error) return errno = error, -1;                                                                  \
  }

ssize_t write(int fd, const void *data, size_t size) {
  if (is_counted(fd)) {
    TEAR(REAL(write)(fd, data, size / 2));
    CHECK
  }
  return REAL(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  if (is_counted(fd)) {
    TEAR(REAL(pwrite)(fd, data, size / 2, at));
    CHECK
  }
  return REAL(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  if (is_counted(fd)) {
    TEAR(REAL(pwrite64)(fd, data, size / 2, at));
    CHECK
  }
  return REAL(pwrite64)(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (is_counted(fd)) CHECK
  return REAL(writev)(fd, parts, count);
}

int fsync(int fd) {
  if (is_counted(fd)) CHECK
  return REAL(fsync)(fd);
}

int fdatasync(int fd) {
  if (is_counted(fd)) CHECK
  return REAL(fdatasync)(fd);
}

int ftruncate(int fd, off_t size) {
  if (is_counted(fd)) CHECK
  return REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) {
  if (is_counted(fd)) CHECK
  return REAL(ftruncate64)(fd, size);
}

int unlink(const char *path) {
  if (below(path)) CHECK
  return REAL(unlink)(path);
}

int unlinkat(int fd, const char *path, int flags) {
  if (below(path)) CHECK
  return REAL(unlinkat)(fd, path, flags);
}

int rename(const char *from, const char *to) {
  if (below(to)) CHECK
  return REAL(rename)(from, to);
}

int link(const char *from, const char *to) {
  if (below(to)) CHECK
  return REAL(link)(from, to);
}

int mkdir(const char *path, mode_t bits) {
  if (below(path)) CHECK
  return REAL(mkdir)(path, bits);
}

static int open_with(const char *name, const char *path, int flags, mode_t bits) {
  if ((flags & O_CREAT) && below(path) && access(path, F_OK)) CHECK
  int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
  return real(path, flags, bits);
}

#define BITS                                                                                              \
  va_list rest;                                                                                           \
  va_start(rest, flags);                                                                                  \
  mode_t bits = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                             \
  va_end(rest);

int open(const char *path, int flags, ...) {
  BITS return open_with("open", path, flags, bits);
}

int open64(const char *path, int flags, ...) {
  BITS return open_with("open64", path, flags, bits);
}
