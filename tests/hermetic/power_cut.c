/* What a disk holds after a power cut, at its worst: of a file, its bytes as of its last sync; of a folder, its names as of its last sync.
 *
 * Preloaded into a host. A sync does not reach the disk, but copies what is synced into the folder $DISK: files as f<inode>, folders as
 * d<inode> with a line `<type> <inode> <name>` for each entry. With $CUT_AT=n the process is killed at its n-th sync: before it has reached
 * the disk if n is odd, and after that if n is even. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long synced;

/* Opens a file in the folder of copies. */
static int in_disk(const char *disk, const char *kind, unsigned long long name, int flags, char path[4096]) {
    snprintf(path, 4096, "%s/%s%llu", disk, kind, name);
    return open(path, flags | O_CLOEXEC, 0600);
}

/* Gives a file a second name, so that the number of its inode is not given to another one. */
static void hold(int folder, const char *name, int flags) {
    char path[4096];
    struct stat found;
    if (fstatat(folder, name, &found, 0)) return;
    snprintf(path, sizeof path, "%s/i%llu", getenv("DISK"), (unsigned long long)found.st_ino);
    linkat(folder, name, AT_FDCWD, path, flags);
}

static int copy_bytes(int from, int to) {
    char bytes[65536];
    off_t at = 0;
    ssize_t count;
    int own = -1;
    char path[64];
    /* A descriptor of its own: this one may be open for writing only. */
    snprintf(path, sizeof path, "/proc/self/fd/%d", from);
    if ((own = open(path, O_RDONLY | O_CLOEXEC)) < 0) return -1;
    hold(from, path, AT_SYMLINK_FOLLOW);
    while ((count = pread(own, bytes, sizeof bytes, at)) > 0 && write(to, bytes, (size_t)count) == count) at += count;
    close(own);
    return count == 0 ? 0 : -1;
}

static int copy_names(int from, int to) {
    int own = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = own < 0 ? NULL : fdopendir(own);
    if (!folder) return -1;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.' && (!entry->d_name[1] || (entry->d_name[1] == '.' && !entry->d_name[2]))) continue;
        dprintf(to, "%c %llu %s\n", entry->d_type == DT_DIR ? 'd' : 'f', (unsigned long long)entry->d_ino, entry->d_name);
        if (entry->d_type != DT_DIR) hold(from, entry->d_name, 0);
    }
    closedir(folder);
    return 0;
}

static int keep(int fd) {
    const char *disk = getenv("DISK");
    char path[4096], new[4096];
    struct stat found;
    if (fstat(fd, &found)) return -1;
    if (!disk) return 0;
    if (!S_ISREG(found.st_mode) && !S_ISDIR(found.st_mode)) return errno = EINVAL, -1;
    /* One at a time, in all processes: an older list of names must not replace a newer one. */
    int lock = in_disk(disk, "lock", 0, O_CREAT | O_RDWR, path);
    if (lock < 0 || flock(lock, LOCK_EX)) abort();
    int to = in_disk(disk, "new", 0, O_CREAT | O_TRUNC | O_WRONLY, new);
    int is_kept = to >= 0 && (S_ISDIR(found.st_mode) ? copy_names(fd, to) : copy_bytes(fd, to)) == 0;
    snprintf(path, sizeof path, "%s/%c%llu", disk, S_ISDIR(found.st_mode) ? 'd' : 'f', (unsigned long long)found.st_ino);
    if (!is_kept || rename(new, path)) abort();
    close(to);
    close(lock);
    return 0;
}

static int sync_one(int fd) {
    const char *cut_at = getenv("CUT_AT");
    long n = atomic_fetch_add(&synced, 1) + 1, last = cut_at ? atol(cut_at) : 0;
    if (n == last && last % 2) kill(getpid(), SIGKILL);
    int result = keep(fd);
    if (n == last) kill(getpid(), SIGKILL);
    return result;
}

int fsync(int fd) { return sync_one(fd); }
int fdatasync(int fd) { return sync_one(fd); }
