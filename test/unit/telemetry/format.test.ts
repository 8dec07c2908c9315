import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes, formatDuration } from '../../../host/telemetry/format.ts';

const durations: [number, string][] = [
  [0, '0 ns'],
  [999, '999 ns'],
  [999.7, '1.00 µs'],
  [1000, '1.00 µs'],
  [9994, '9.99 µs'],
  [9996, '10.0 µs'],
  [99_960, '100 µs'],
  [999_499, '999 µs'],
  [999_500, '1.00 ms'],
  [2_410_000, '2.41 ms'],
  [999_499_999, '999 ms'],
  [1.2e9, '1.20 s'],
  [90e9, '90.0 s'],
];
for (const [ns, text] of durations) {
  test(`${ns} ns are ${text}`, () => assert.equal(formatDuration(ns), text));
}

const sizes: [number, string][] = [
  [0, '0 B'],
  [999, '999 B'],
  [1000, '0.98 KiB'],
  [4096, '4.00 KiB'],
  [8 * 1024 ** 2, '8.00 MiB'],
  [1.5 * 1024 ** 4, '1.50 TiB'],
];
for (const [bytes, text] of sizes) {
  test(`${bytes} bytes are ${text}`, () => assert.equal(formatBytes(bytes), text));
}
