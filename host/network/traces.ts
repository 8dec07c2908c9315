/**
 * What a network changes on the machine beyond its own links and rules, written down before it is
 * done: a host that was killed leaves the note, and the next one puts everything back.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isErrno } from '../sys/errors.ts';

export interface Traces {
  bridge: string;
  driver: 'nftables' | 'iptables';
  /** Paths below /proc/sys/net with what they held before. */
  settings: [path: string, value: string][];
}

const forwarding4 = 'ipv4/ip_forward';
const forwarding6 = 'ipv6/conf/all/forwarding';

/** Undefined when nothing was left. */
export function readTraces(file: string): Traces | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Traces;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

export function writeTraces(file: string, traces: Traces): void {
  writeFileSync(file, JSON.stringify(traces), { mode: 0o600 });
}

export function removeTraces(file: string): void {
  rmSync(file, { force: true });
}

/** What has to change for the machine to forward packets, as it is now. */
export function settingsNow(): Traces['settings'] {
  const forwards6 = read(forwarding6) !== '0';
  // A router heeds no router advertisements, unless told to: our own route may be from one.
  const accepting = forwards6
    ? []
    : readdirSync('/proc/sys/net/ipv6/conf')
        .map((link) => `ipv6/conf/${link}/accept_ra`)
        .filter((path) => read(path) === '1');
  const changed = [...(read(forwarding4) === '0' ? [forwarding4] : []), ...accepting];
  if (!forwards6) changed.push(forwarding6);
  return changed.map((path) => [path, read(path)]);
}

/** Whether the machine forwarded nothing before. */
export function wasNoRouter({ settings }: Traces): { ipv4: boolean; ipv6: boolean } {
  const changes = (path: string): boolean => settings.some(([one]) => one === path);
  return { ipv4: changes(forwarding4), ipv6: changes(forwarding6) };
}

export function applySettings({ settings }: Traces): void {
  for (const [path] of settings) write(path, path.endsWith('accept_ra') ? '2' : '1');
}

/** Links may have gone meanwhile. */
export function restoreSettings({ settings }: Traces): void {
  for (const [path, value] of settings.toReversed()) {
    try {
      write(path, value);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
  }
}

function read(path: string): string {
  return readFileSync(`/proc/sys/net/${path}`, 'utf8').trim();
}

function write(path: string, value: string): void {
  writeFileSync(`/proc/sys/net/${path}`, value);
}
