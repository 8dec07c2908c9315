/**
 * The descriptors of libuv's default loop. A child closes all else that it inherited, then lets
 * libuv replace exactly these; closing one too many would make libuv close a newer descriptor that
 * got the same number.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { defaultLoopFd } from '../host/sys/fork.ts';

export function findLoopFds(): number[] {
  const epollFd = defaultLoopFd();
  const watched = [
    ...readFileSync(`/proc/self/fdinfo/${epollFd}`, 'latin1').matchAll(/^tfd:\s*(\d+)/gm),
  ];
  const fds = [epollFd, ...watched.map((match) => Number(match[1]))];
  // The loop watches the read end of its signal pipe: the write end is the other one of that pipe.
  const pipes = new Set(fds.map(linkOf).filter((link) => link.startsWith('pipe:')));
  for (const name of readdirSync('/proc/self/fd')) {
    const fd = Number(name);
    if (fd > 2 && !fds.includes(fd) && pipes.has(linkOf(fd))) fds.push(fd);
  }
  return fds;
}

function linkOf(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
