/** Why the recorded calls and the profiles differ: a reason for each difference. */
import type { SeccompProfile } from '../../host/protocol/invoke.ts';

const fallsBack = {
  clone3: 'glibc falls back to clone, whose flags a filter can see',
  io_uring_setup: 'libuv falls back to epoll',
};

/** By the call with the arguments that the profile looks at. */
export const expectedRefusals: Record<SeccompProfile, Record<string, string>> = {
  node: fallsBack,
  strict: {
    ...fallsBack,
    fchown: 'SQLite gives its log to the owner of the database when it is root, and only then',
    'socket 0x1 0x80801 0': 'glibc asks nscd who a user is, and reads /etc/passwd without it',
  },
};

/** Names of calls, parted by blanks. */
const unseen: Record<string, string> = {
  'a form of one that is seen, which other C libraries, languages and versions make':
    'readv writev preadv preadv2 pwritev2 open openat2 creat faccessat faccessat2 readlinkat ' +
    'getdents renameat renameat2 linkat symlinkat mkdirat truncate fstatfs fchmodat lchown ' +
    'fchownat utime utimes futimesat mknod chdir fchdir dup dup2 dup3 pipe eventfd signalfd ' +
    'signalfd4 inotify_init accept recvfrom sendmmsg recvmmsg poll ppoll select pselect6 ' +
    'epoll_create epoll_wait epoll_pwait2 fork execveat waitid tkill tgkill getrlimit setrlimit ' +
    'nanosleep clock_nanosleep times',
  'the vDSO answers without a call, but not with every clock of a virtual machine':
    'clock_gettime clock_getres gettimeofday time getcpu',
  'of the C library and of language runtimes: when threads begin, meet, wait and end':
    'set_tid_address get_robust_list membarrier sched_yield futex_waitv arch_prctl sigaltstack',
  'of allocators and garbage collectors, as memory grows and shrinks': 'mremap mincore msync',
  'made where the processor has memory keys: V8 then guards its code by them':
    'pkey_alloc pkey_free pkey_mprotect',
  'has the kernel go on with a wait that a signal interrupted': 'restart_syscall',
  'of child processes before they execute: glibc and Python close what is open': 'close_range',
  'memory with a descriptor, to share with children: Wayland, Python, compilers': 'memfd_create',
  'of databases and of programs that copy, search and archive files':
    'fallocate flock sync_file_range readahead fadvise64 splice tee mlock mlock2 munlock ' +
    'mlockall munlockall io_setup io_submit io_getevents io_pgetevents io_cancel io_destroy',
  'of tar, cp and rsync, which keep attributes of the user class':
    'getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr ' +
    'removexattr lremovexattr fremovexattr',
  'of event loops of other languages': 'timerfd_create timerfd_settime timerfd_gettime',
  'of supervisors and shells: jobs, their signals and their terminal':
    'pidfd_open pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo rt_sigpending ' +
    'rt_sigtimedwait pause setsid getsid getpgid getpgrp ioctl',
  'tells a process of itself, and changes nothing':
    'getppid getresuid getresgid getgroups sysinfo getpriority sched_getparam ' +
    'sched_getscheduler sched_getattr sched_get_priority_max sched_get_priority_min ' +
    'sched_rr_get_interval ioprio_get personality',
  'of busybox and su: an own id can be taken again, no other':
    'setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid',
  'of taskset, chrt and ionice: less for itself than the host gives, never more':
    'sched_setaffinity sched_setparam sched_setscheduler sched_setattr ioprio_set',
  'of timeout, sleep and profilers':
    'alarm getitimer setitimer timer_gettime timer_getoverrun timer_delete',
  'of PostgreSQL and other programs of several processes; nobody else is in this namespace':
    'shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl ' +
    'mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr',
  'of browsers and sandboxes, which narrow what their children may do':
    'landlock_create_ruleset landlock_add_rule landlock_restrict_self',
};

export const reasonsToStay: ReadonlyMap<string, string> = new Map(
  Object.entries(unseen).flatMap(([reason, calls]) =>
    calls.split(' ').map((call) => [call, reason] as const),
  ),
);
