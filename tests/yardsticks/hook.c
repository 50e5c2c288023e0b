/* The least that a hook has to do, as a yardstick for larder-hook: no checks, no configuration, no messages.
 *
 *   hook              a record of 300 bytes in $YARDSTICK: written, synced, renamed into place, one link to what was
 *                     built, the directory synced. To be used as a post-build-hook, too
 *   hook loop DIR N   the system calls that larder-hook makes for N outputs, in the queue DIR/state and the roots
 *                     DIR/auto: for each its two links, both directories synced, then the job, synced, renamed, the
 *                     directory synced
 *   hook nothing      starts and ends
 *
 * Names are made of the time and the process id. It ends with 1 where a call fails. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void must(int result) {
    if (result < 0) _exit(1);
}

static int directory(int at, const char *name) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    must(fd);
    return fd;
}

/* Writes `size` bytes as `name` below `scratch`, and moves them to `place`; both are synced. */
static void record(int scratch, int place, const char *name, size_t size) {
    char draft[256], text[16384];
    memset(text, 'x', sizeof text);
    snprintf(draft, sizeof draft, ".new-%s", name);
    int fd = openat(scratch, draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    must(fd);
    must(write(fd, text, size) == (ssize_t)size ? 0 : -1);
    must(fsync(fd));
    must(renameat(scratch, draft, place, name));
    must(fsync(place));
}

static void least(const char *dir, const char *name) {
    char link[256];
    int at = directory(AT_FDCWD, dir);
    snprintf(link, sizeof link, "link-%s", name);
    must(symlinkat("/nix/store/00000000000000000000000000000000-built", at, link));
    record(at, at, name, 300);
}

static void loop(const char *dir, const char *name, int count) {
    char path[4096], target[8192], link[256];
    snprintf(path, sizeof path, "%s/state", dir);
    int state = directory(AT_FDCWD, path), roots = directory(state, "roots");
    for (int n = 0; n < count; n++) {
        snprintf(link, sizeof link, "%s.%d", name, n);
        must(symlinkat("/nix/store/00000000000000000000000000000000-built", roots, link));
    }
    for (int n = 0; n < count; n++) {
        snprintf(target, sizeof target, "%s/state/roots/%s.%d", dir, name, n);
        snprintf(path, sizeof path, "%s/auto/larder-%s.%d", dir, name, n);
        must(symlink(target, path));
    }
    snprintf(path, sizeof path, "%s/auto", dir);
    must(fsync(roots));
    must(fsync(directory(AT_FDCWD, path)));
    record(directory(state, "tmp"), directory(state, "incoming"), name, 200 + 100 * (size_t)count);
}

int main(int count, char **words) {
    char name[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(name, sizeof name, "%010ld-%09ld-%08x", (long)now.tv_sec, now.tv_nsec, (unsigned)getpid());
    const char *dir = getenv("YARDSTICK");
    if (count == 2 && !strcmp(words[1], "nothing")) return 0;
    if (count == 4 && !strcmp(words[1], "loop")) loop(words[2], name, atoi(words[3]));
    else if (count == 1 && dir) least(dir, name);
    else return 2;
    return 0;
}
