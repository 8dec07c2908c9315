/**
 * Which descriptors a forked child needs of those it inherits: libuv's. All others are closed; one
 * too many, and libuv would later close, or write to, a newer descriptor with the same number.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { defaultLoopFd } from '../host/sys/fork.ts';
import { closeAllBut, replaceWithEventFd } from '../host/sys/process.ts';

/** In a child: closes all that is inherited but what libuv and the caller need. */
export function closeInherited(libuv: LibuvFds, keep: readonly number[]): void {
  closeAllBut([...keep, ...libuv.own, ...libuv.threads]);
  replaceWithEventFd(libuv.threads);
}

/** What each descriptor of this process refers to, as /proc tells: `pipe:[123]`. */
export function describeFds(): Map<number, string> {
  const links = new Map<number, string>();
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      links.set(Number(name), readlinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The descriptor of the listing itself is gone by now.
    }
  }
  return links;
}

export interface LibuvFds {
  /** Kept: the default loop's, and the lock on signal delivery. */
  own: readonly number[];
  /** Kept as numbers, with something harmless behind them. */
  threads: readonly number[];
}

/**
 * In the parent: the descriptors of libuv's default loop, which `adoptEventLoop` replaces in a
 * child: the epoll set, what it watches, and the write end of its signal pipe.
 */
export function findLoopFds(): number[] {
  const epollFd = defaultLoopFd();
  const info = readFileSync(`/proc/self/fdinfo/${epollFd}`, 'latin1');
  const watched = [...info.matchAll(/^tfd:\s*(\d+)/gm)].map((match) => Number(match[1]));
  const links = describeFds();
  const pipes = new Set(
    watched.map((fd) => links.get(fd)).filter((link) => link?.startsWith('pipe:')),
  );
  const signalPipe = [...links].filter(([, link]) => pipes.has(link)).map(([fd]) => fd);
  return [...new Set([epollFd, ...watched, ...signalPipe])];
}

/**
 * In the parent: the eventfds of Node's own threads. A child has none of these threads, but V8
 * still wakes them, in a garbage collection say, and libuv aborts when it can't: so each child puts
 * eventfds of its own in their place.
 */
export function findThreadFds(loopFds: readonly number[]): number[] {
  return [...describeFds()]
    .filter(([fd, link]) => link === 'anon_inode:[eventfd]' && !loopFds.includes(fd))
    .map(([fd]) => fd);
}

/**
 * In a child, right after the fork: the pipe that libuv's own fork handler has made to guard signal
 * delivery. It gets the same numbers in every child, as all are forked with the same ones in use.
 */
export function findSignalLock(parent: Map<number, string>): number[] {
  const known = new Set(parent.values());
  return [...describeFds()]
    .filter(([, link]) => link.startsWith('pipe:') && !known.has(link))
    .map(([fd]) => fd);
}
