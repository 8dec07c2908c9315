import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { HatchError } from '../../../host/base/errors.ts';
import { mountOverlay } from '../../../host/storage/overlay-mount.ts';

test('a list too long for the kernel is refused with what to do, and leaves nothing', () => {
  const directory = fs.mkdtempSync(`${tmpdir()}/hatch-overlay-mount-`);
  try {
    const lowerDirectories = Array.from({ length: 300 }, () => directory);
    const fdsBefore = fs.readdirSync('/proc/self/fd').length;
    assert.throws(
      () => mountOverlay({ directory, lowerDirectories, lowerOption: 'list', persistent: true }),
      (error) =>
        error instanceof HatchError &&
        error.code === 'host.unsupported' &&
        /takes 4095 bytes .* use fewer layers, or Linux 6\.8 or newer/.test(error.message),
    );
    assert.equal(fs.readdirSync('/proc/self/fd').length, fdsBefore);
    assert.deepEqual(fs.readdirSync(directory), []);
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
});
