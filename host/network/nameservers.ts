/** The nameservers that functions may be given: those of the machine that are not on it. */
import { readFileSync } from 'node:fs';
import { isErrno } from '../sys/errors.ts';
import { parseAddress } from './subnet.ts';

/** With systemd-resolved the first names a server on the loopback, the second those behind it. */
const files = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'];
/** What a resolver reads of its file. */
const serversMax = 3;

export function machineNameservers(): string[] {
  for (const file of files) {
    const found = nameserversIn(readIfThere(file));
    if (found.length > 0) return found;
  }
  return [];
}

/** Of a resolv.conf(5), but for loopback ones: a function has a loopback of its own. */
export function nameserversIn(text: string): string[] {
  return text
    .split('\n')
    .flatMap((line) => /^nameserver\s+(\S+)/.exec(line)?.[1] ?? [])
    .filter((address) => parseAddress(address) !== undefined)
    .filter((address) => !address.startsWith('127.') && address !== '::1')
    .slice(0, serversMax);
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return '';
    throw error;
  }
}
