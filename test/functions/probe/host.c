/* What would be done to those outside, and to PID 1. */
#define _GNU_SOURCE
#include "probe.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int pass(int socket, int passed) {
  char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
  struct iovec vector = {&byte, 1};
  struct msghdr message = {NULL, 0, &vector, 1, control, sizeof control, 0};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
  memcpy(CMSG_DATA(header), &passed, sizeof passed);
  return sendmsg(socket, &message, MSG_NOSIGNAL);
}

/* A connection that keeps whoever closes it last, for its other end, which a child holds, never
 * reads, and it says to wait so long for that. */
static int make_lingering(int for_seconds) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  struct linger linger = {1, for_seconds};
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (void *)&address, size) || listen(listener, 1)) fail("listen");
  if (getsockname(listener, (void *)&address, &size)) fail("getsockname");
  if (fork() == 0) {
    if (accept(listener, NULL, NULL) < 0) fail("accept");
    for (int fd = 0; fd < listener; fd++) close(fd);
    for (;;) pause();
  }
  int client = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(client, (void *)&address, size)) fail("connect");
  fill(client);
  if (setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger)) fail("linger");
  return client;
}

/* SOCKET SECONDS: passes a lingering connection on by that descriptor. */
static int pass_lingering(Arguments a) {
  int result = pass(atoi(a[0]), make_lingering(atoi(a[1])));
  return printf("%s\n", result < 0 ? strerrorname_np(errno) : "passed") < 0;
}

/* SECONDS: for how many milliseconds it keeps who receives it, and did not ask for descriptors. */
static int receive_lingering(Arguments a) {
  int ends[2], client = make_lingering(atoi(a[0]));
  char byte;
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || pass(ends[1], client) < 0) fail("pass");
  close(client);
  double start = seconds();
  if (read(ends[0], &byte, 1) != 1) fail("read");
  return printf("%.0f\n", (seconds() - start) * 1000) < 0;
}

/* Threads that stay, until no more can be made, or COUNT. */
static void *wait_for_ever(void *nothing) {
  while (!nothing) pause();
  return nothing;
}

static int thread_bomb(Arguments a) {
  int made = 0, told = 0;
  pthread_attr_t small;
  pthread_t thread;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 16384);
  while (made < atoi(a[0]) && !(told = pthread_create(&thread, &small, wait_for_ever, NULL))) made++;
  return printf("{\"made\":%d,\"told\":\"%s\"}\n", made, told ? strerrorname_np(told) : "") < 0;
}

/* Takes from process PID all that one of the same user may: limits, priority, its processor. How
 * many of these it could. */
static int squeeze(Arguments a) {
  int pid = atoi(a[0]), done = 0;
  struct rlimit nothing = {0, 0};
  struct sched_param lowest = {0};
  for (int kind = 0; kind < RLIM_NLIMITS; kind++)
    /* Without processor time it would end at once, and show nothing. */
    if (kind != RLIMIT_CPU && !prlimit(pid, kind, &nothing, NULL)) done++;
  if (!setpriority(PRIO_PROCESS, pid, 19)) done++;
  if (!sched_setscheduler(pid, SCHED_IDLE, &lowest)) done++;
  return printf("%d\n", done) < 0;
}

/* PATH SECONDS: whether it could lock it; keeps the lock so long. */
static int hold_lock(Arguments a) {
  int result = flock(open(a[0], O_RDONLY), LOCK_EX | LOCK_NB);
  printf("%s\n", result ? strerrorname_np(errno) : "ok");
  if (result == 0) sleep(atoi(a[1]));
  return 0;
}

const struct verb host_verbs[] = {
    {"pass-lingering", 2, pass_lingering}, {"receive-lingering", 1, receive_lingering},
    {"thread-bomb", 1, thread_bomb},       {"squeeze", 1, squeeze},
    {"hold-lock", 2, hold_lock},           {NULL, 0, NULL},
};
