/** How a container's processes come under the label of AppArmor or SELinux. */
import { closeSync, constants, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import type { SecurityLabel } from '../host/protocol/zygote.ts';
import { O_CLOEXEC } from '../host/sys/file.ts';

/** The kernel takes it from the process that opened the file, and from no child of it. */
export interface OpenLabel {
  fd: number;
  label: SecurityLabel;
}

const currentFile: Record<SecurityLabel['module'], string> = {
  apparmor: '/proc/self/attr/apparmor/current',
  selinux: '/proc/self/attr/current',
};

/** While /proc can still be written to. */
export function openLabel(label: SecurityLabel | undefined): OpenLabel | undefined {
  if (label === undefined) return undefined;
  return { fd: openSync(currentFile[label.module], constants.O_RDWR | O_CLOEXEC), label };
}

/**
 * Without an exec: for a process of one thread, since a label is a thread's. Before no_new_privs,
 * under which a label can only be left for a narrower one. Cannot be undone; closes the file.
 */
export function enterLabel({ fd, label }: OpenLabel): void {
  const { module, name } = label;
  writeSync(fd, module === 'apparmor' ? `changeprofile ${name}` : name);
  const answer = Buffer.alloc(512);
  const length = readSync(fd, answer, 0, answer.length, 0);
  closeSync(fd);
  verify(answer.toString('utf8', 0, length), label);
}

/** A command that executes the next, under the label; for a shell that has a /proc of its own. */
export function labelCommand(label: SecurityLabel | undefined): string[] {
  if (label === undefined) return [];
  const { module, name } = label;
  const [file, text] =
    module === 'apparmor'
      ? ['/proc/self/attr/apparmor/exec', `exec ${name}`]
      : ['/proc/self/attr/exec', name];
  const script = 'echo "$1" >"$2" || exit 125; shift 2; exec "$@"';
  return ['/bin/busybox', 'sh', '-c', script, 'sh', text, file];
}

/** Throws unless this process is under the label. */
export function verifyLabel(label: SecurityLabel | undefined): void {
  if (label !== undefined) verify(readFileSync(currentFile[label.module], 'utf8'), label);
}

function verify(answer: string, { module, name }: SecurityLabel): void {
  const current = answer.replaceAll('\0', '').trim();
  const wanted = module === 'apparmor' ? `${name} (enforce)` : name;
  if (current !== wanted) throw new Error(`The ${module} label is "${current}", not "${wanted}"`);
}
