/** Which test files there are, and what they need to run on. */
import { globSync } from 'node:fs';
import { join } from 'node:path';
import type { Init } from './vm/machine.ts';

/** `pattern` is a regular expression on paths; all without it. */
export function findTestFiles(pattern = ''): string[] {
  const wanted = new RegExp(pattern);
  const files = globSync('test/**/*.test.ts', { cwd: join(import.meta.dirname, '..') });
  return files.filter((file) => wanted.test(file)).sort();
}

/** What the VM of a test file has as its PID 1. */
export function initFor(file: string): Init {
  return /\/systemd-live\./.test(file) ? 'systemd' : 'script';
}
