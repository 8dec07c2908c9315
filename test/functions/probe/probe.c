/* What a test wants to try from inside a container, and Node.js or busybox have no means for. The
 * same program runs on the host, as the contrast. Usage: probe VERB [ARGUMENT ...] */
#define _GNU_SOURCE
#include "probe.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

void fail(const char *what) {
  perror(what);
  exit(1);
}

static void sleep_ms(long ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

/* Forks until a child has process id N; that one stays, the others end at once. */
static int fork_to(Arguments a) {
  int wanted = atoi(a[0]);
  for (int tries = 0; tries < 40000; tries++) {
    pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid == 0) {
      if (getpid() != wanted) _exit(0);
      setsid();
      for (int fd = 0; fd < 3; fd++) close(fd);
      for (;;) pause();
    }
    if (pid == wanted) return printf("%d\n", pid) < 0;
    waitpid(pid, NULL, 0);
  }
  fprintf(stderr, "no process got id %d\n", wanted);
  return 1;
}

/* System V shared memory and POSIX queues: "make" leaves one behind, "find" looks for it. */
static int report(const char *what, long result) {
  printf("%s: %s\n", what, result < 0 ? strerror(errno) : "found");
  return 0;
}

static int shm_make(Arguments a) { return report("shm", shmget(atoi(a[0]), 4096, IPC_CREAT | 0666)); }
static int shm_find(Arguments a) { return report("shm", shmget(atoi(a[0]), 0, 0)); }
static int shm_remove(Arguments a) {
  return shmctl(shmget(atoi(a[0]), 0, 0), IPC_RMID, NULL) < 0;
}
static int mq_make(Arguments a) { return report("mq", mq_open(a[0], O_CREAT | O_RDWR, 0666, NULL)); }
static int mq_find(Arguments a) { return report("mq", mq_open(a[0], O_RDONLY)); }
static int mq_remove(Arguments a) { return mq_unlink(a[0]) < 0; }

static int count_zombies(void) {
  int zombies = 0;
  DIR *proc = opendir("/proc");
  if (!proc) fail("/proc");
  for (struct dirent *entry; (entry = readdir(proc));) {
    char path[300], state = 0;
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
    FILE *file = fopen(path, "r");
    if (!file) continue;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) == 1 && state == 'Z') zombies++;
    fclose(file);
  }
  closedir(proc);
  return zombies;
}

/* Every INTERVAL ms an orphan that ends at once; looks for zombies before each, and at the end. */
static int orphans(Arguments a) {
  int count = atoi(a[0]), interval = atoi(a[1]), left = 0, most = 0, refused = 0;
  for (int i = 0; i < count; i++) {
    int zombies = count_zombies();
    if (zombies > most) most = zombies;
    pid_t pid = fork();
    if (pid == 0) {
      pid_t orphan = fork();
      if (orphan == 0) {
        while (getppid() != 1) sched_yield();
        _exit(0);
      }
      _exit(orphan < 0);
    }
    int status = 1;
    if (pid > 0) waitpid(pid, &status, 0);
    if (status == 0) left++; else refused++;
    sleep_ms(interval);
  }
  int end = count_zombies();
  printf("{\"left\":%d,\"refused\":%d,\"zombiesMost\":%d,\"zombiesAtEnd\":%d}\n", left, refused,
         end > most ? end : most, end);
  return 0;
}

/* A PID 1 as it must not be: waits for its first child only. */
static int never_reap(Arguments a) {
  pid_t pid = fork();
  if (pid == 0) {
    execv(a[0], (char *const *)a);
    fail(a[0]);
  }
  int status;
  waitpid(pid, &status, 0);
  return WEXITSTATUS(status);
}

/* All children fork, too, until the time is over; prints what the first refused fork was told. */
double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static int fork_bomb(Arguments a) {
  double end = seconds() + atoi(a[0]);
  int told = 0, forks = 0;
  pid_t first = getpid();
  while (seconds() < end) {
    pid_t pid = fork();
    if (pid > 0) forks++;
    if (pid < 0 && !told && getpid() == first) told = errno;
  }
  if (getpid() != first) _exit(0);
  printf("{\"forks\":%d,\"told\":\"%s\"}\n", forks, strerrorname_np(told));
  return 0;
}

/* Takes that many MiB, writing to each page. */
static int take_memory(Arguments a) {
  size_t size = (size_t)atol(a[0]) << 20;
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
  printf("taken\n");
  return 0;
}

void fill(int fd) {
  static char bytes[4096];
  fcntl(fd, F_SETFL, O_NONBLOCK);
  while (write(fd, bytes, sizeof bytes) > 0) {}
}

/* Events of a file that nobody reads: opened and closed in turns, so that none is merged. */
static int queue_events(int fd) {
  const char *path = "/tmp/hatch-events";
  close(open(path, O_CREAT | O_WRONLY, 0600));
  if (inotify_add_watch(fd, path, IN_OPEN | IN_CLOSE) < 0) return -1;
  for (int i = 0; i < 8000; i++) close(open(path, O_RDONLY));
  return 0;
}

/* It keeps a pending signal ready, of which each user has some. */
static int take_timer(void) {
  timer_t timer;
  return timer_create(CLOCK_MONOTONIC, NULL, &timer);
}

static int take_one(const char *kind) {
  int ends[2];
  if (kind[0] == 'i') return inotify_init1(0) < 0 ? -1 : 0;
  if (kind[0] == 't') return take_timer();
  if (kind[0] == 'e') return (ends[0] = inotify_init1(0)) < 0 ? -1 : queue_events(ends[0]);
  if (kind[0] == 'p' ? pipe(ends) : socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return -1;
  fill(ends[1]);
  return 0;
}

/* KIND COUNT: takes so many full "pipes", "sockets", queues of "events", empty "inotify"s or
 * "timers", as far as it goes, in a child that stays and holds them. */
static int take(Arguments a) {
  int taken = 0, told = 0, ends[2];
  char end;
  if (pipe(ends) < 0) fail("pipe");
  if (fork()) return close(ends[1]) || read(ends[0], &end, 1) < 0;
  while (taken < atoi(a[1]) && !told)
    if (take_one(a[0]) < 0) told = errno;
    else taken++;
  printf("{\"taken\":%d,\"told\":\"%s\"}\n", taken, told ? strerrorname_np(told) : "");
  fflush(stdout);
  for (int fd = 0; fd < 3; fd++) close(fd);
  close(ends[0]);
  close(ends[1]);
  for (;;) pause();
}

/* Options of a file system longer than a page, as CVE-2022-0185 needs them: how far it comes. */
static int long_options(Arguments a) {
  (void)a;
  static char value[256];
  memset(value, 'A', sizeof value - 1);
  int fd = syscall(SYS_fsopen, "tmpfs", 0);
  if (fd < 0) return printf("fsopen: %s\n", strerrorname_np(errno)) < 0;
  for (int i = 0; i < 100; i++) syscall(SYS_fsconfig, fd, 1 /* SET_STRING */, "\0", value, 0);
  return printf("fsconfig: %s\n", strerrorname_np(errno)) < 0;
}

/* What would give it back a capability: raised as ambient, put into its sets. */
static int raise_capabilities(Arguments a) {
  (void)a;
  unsigned header[2] = {0x20080522, 0}, all[6] = {~0u, ~0u, ~0u, 0x1ff, 0x1ff, 0x1ff};
  unsigned one[6] = {1u << CAP_SYS_ADMIN, 1u << CAP_SYS_ADMIN, 1u << CAP_SYS_ADMIN};
  long results[] = {
      prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0) ? errno : 0,
      syscall(SYS_capset, header, all) ? errno : 0,
      syscall(SYS_capset, header, one) ? errno : 0,
      prctl(PR_SET_SECUREBITS, 0) ? errno : 0,
      prctl(PR_SET_KEEPCAPS, 1) ? errno : 0,
  };
  for (size_t i = 0; i < sizeof results / sizeof *results; i++)
    printf("%s%s", i ? " " : "", results[i] ? strerrorname_np((int)results[i]) : "ok");
  return 0;
}

static int spin(Arguments a) {
  double end = seconds() + atoi(a[0]);
  while (seconds() < end) {}
  return 0;
}

/* Who am I, and who may I become: for set-user-id copies of this program. */
static int identity(Arguments a) {
  (void)a;
  uid_t real, effective, saved;
  getresuid(&real, &effective, &saved);
  printf("{\"real\":%u,\"effective\":%u,\"saved\":%u}\n", real, effective, saved);
  return 0;
}

/* Sets an extended attribute of one byte: PATH NAME. */
static int set_attribute(Arguments a) {
  if (setxattr(a[0], a[1], "y", 1, 0) < 0) fail(a[1]);
  return 0;
}

static int securebits(Arguments a) {
  (void)a;
  return printf("%d\n", prctl(PR_GET_SECUREBITS)) < 0;
}

/* Attaches the file SOURCE of this mount namespace at TARGET in that of process PID. */
static int bind_into(Arguments a) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/ns/mnt", a[0]);
  int space = open(path, O_RDONLY);
  int tree = syscall(SYS_open_tree, AT_FDCWD, a[1], 1 /* OPEN_TREE_CLONE */);
  if (space < 0 || tree < 0) fail("open");
  if (setns(space, CLONE_NEWNS) < 0) fail("setns");
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, a[2], 4 /* MOVE_MOUNT_F_EMPTY_PATH */) < 0)
    fail("move_mount");
  return 0;
}

/* The inode of the user namespace that owns a namespace file. */
static int owner_of(Arguments a) {
  struct stat stat;
  int owner = ioctl(open(a[0], O_RDONLY), 0xb701 /* NS_GET_USERNS */);
  if (owner < 0 || fstat(owner, &stat) < 0) fail(a[0]);
  return printf("user:[%lu]\n", (unsigned long)stat.st_ino) < 0;
}

/* For each process id on standard input: says "watching", then with what status it ended. Both
 * lines come at once; the status is as wait(2) would have it. */
static int watch_exits(Arguments a) {
  (void)a;
  int pid;
  while (scanf("%d", &pid) == 1) {
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT) < 0) fail("ptrace");
    printf("watching %d\n", pid);
    fflush(stdout);
    int status;
    unsigned long end = 0;
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
      int event = status >> 16, signal = WSTOPSIG(status);
      if (event == PTRACE_EVENT_EXIT) {
        ptrace(PTRACE_GETEVENTMSG, pid, 0, &end);
        break;
      }
      ptrace(PTRACE_CONT, pid, 0, event ? 0 : signal);
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
    if (WIFEXITED((int)end)) printf("%d exited %d\n", pid, WEXITSTATUS((int)end));
    else printf("%d signal %d\n", pid, WTERMSIG((int)end));
    fflush(stdout);
  }
  return 0;
}

/* One system call in this frame: what comes back twice, as fork does, must not return from it. */
static inline __attribute__((always_inline)) long call_now(const char *way, long n, const long *a) {
  long result;
#ifdef __x86_64__
  if (way[0] == 'i') {
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(n) : "memory");
    return result;
  }
  register long r10 __asm__("r10") = a[3];
  register long r8 __asm__("r8") = a[4];
  register long r9 __asm__("r9") = a[5];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
#else
  (void)way;
  result = syscall(n, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (result == -1) result = -errno;
#endif
  return result;
}

static void try_call(const char *way, long number, const long *a, int wait_ms) {
  int ends[2];
  if (pipe(ends) < 0) fail("pipe");
  pid_t pid = fork();
  if (pid == 0) {
    pid_t self = getpid();
    int nothing = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(nothing, fd);
    dup2(ends[1], 900);
    long result = call_now(way, number, a);
    if (getpid() == self && write(900, &result, sizeof result) < 0) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  long result = 0;
  struct pollfd ready = {ends[0], POLLIN, 0};
  if (poll(&ready, 1, wait_ms) == 0) {
    printf("%s %ld blocked\n", way, number);
    kill(pid, SIGKILL);
  } else if (read(ends[0], &result, sizeof result) == sizeof result) {
    if (result < 0 && result > -4096) printf("%s %ld %s\n", way, number, strerrorname_np(-result));
    else printf("%s %ld ok\n", way, number);
    kill(pid, SIGKILL);
  } else {
    int status;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) printf("%s %ld signal %d\n", way, number, WTERMSIG(status));
    else printf("%s %ld ended\n", way, number);
    pid = 0;
  }
  if (pid > 0) waitpid(pid, NULL, 0);
  close(ends[0]);
}

/* [MS]: makes the calls of standard input, each in a process of its own, and tells how each went,
 * after so long "blocked". A line: "native", "int80" or "x32", its number, its six arguments. */
static int calls(Arguments a) {
  int wait_ms = a[0] ? atoi(a[0]) : 300;
  char way[8];
  long n, v[6];
  while (scanf("%7s %ld %ld %ld %ld %ld %ld %ld", way, &n, v, v + 1, v + 2, v + 3, v + 4, v + 5) == 8) {
    fflush(stdout);
    try_call(way, way[0] == 'x' ? n | 0x40000000 : n, v, wait_ms);
  }
  return 0;
}

static const struct verb verbs[] = {
    {"fork-to", 1, fork_to},         {"shm-make", 1, shm_make},     {"shm-find", 1, shm_find},
    {"shm-remove", 1, shm_remove},   {"mq-make", 1, mq_make},       {"mq-find", 1, mq_find},
    {"mq-remove", 1, mq_remove},     {"orphans", 2, orphans},       {"never-reap", 1, never_reap},
    {"fork-bomb", 1, fork_bomb},     {"take-memory", 1, take_memory}, {"spin", 1, spin},
    {"identity", 0, identity},       {"bind-into", 3, bind_into},   {"owner-of", 1, owner_of},
    {"watch-exits", 0, watch_exits}, {"calls", 0, calls},         {"set-attribute", 2, set_attribute},
    {"securebits", 0, securebits},   {"take", 2, take},           {"long-options", 0, long_options},
    {"raise-capabilities", 0, raise_capabilities}, {NULL, 0, NULL},
};

int main(int count, char **arguments) {
  const struct verb *const tables[] = {verbs, host_verbs};
  for (size_t t = 0; t < 2 && count > 1; t++)
    for (const struct verb *v = tables[t]; v->name; v++)
      if (!strcmp(arguments[1], v->name) && count - 2 >= v->arguments)
        return v->run((Arguments)(arguments + 2));
  fprintf(stderr, "unknown verb or too few arguments\n");
  return 2;
}
