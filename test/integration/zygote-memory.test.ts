/** What a zygote does with its memory before the first fork, seen from outside. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { hostForFile } from '../support/file-host.ts';
import { zygotePid } from '../support/host-processes.ts';

const host = hostForFile({ config: { parked: 0 } });
const KiB = 1024;

/** Some 650 KiB of it are free once it has warmed up; 150 KiB, when nobody hands any back. */
test('the heap of a zygote is settled: what is free in it has gone back to the kernel', () => {
  const { sizeBytes, residentBytes } = heapOf(zygotePid(host()) ?? 0);
  const returnedBytes = sizeBytes - residentBytes;
  assert.ok(returnedBytes > 400 * KiB, `${returnedBytes} of ${sizeBytes} bytes`);
});

function heapOf(pid: number): { sizeBytes: number; residentBytes: number } {
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const heap = mappings.find((mapping) => mapping.includes('[heap]')) ?? '';
  const field = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(heap)?.[1]) * KiB;
  return { sizeBytes: field('Size'), residentBytes: field('Rss') };
}
