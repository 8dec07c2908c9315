/** Which test files there are, and what they need to run on. */
import { globSync } from 'node:fs';
import { join } from 'node:path';
import type { Init } from './vm/machine.ts';

const repository = join(import.meta.dirname, '..');

/** Those whose path, from the repository's root, matches a regular expression; sorted. */
export function findTestFiles(pattern = ''): string[] {
  const wanted = new RegExp(pattern);
  const files = globSync('test/**/*.test.ts', { cwd: repository });
  return files.filter((file) => wanted.test(file)).toSorted();
}

/** What the VM of a test file has as its PID 1. */
export function initFor(file: string): Init {
  return /\/systemd-live\./.test(file) ? 'systemd' : 'script';
}
