/** The unit for systemd: that systemd understands it, and that it agrees with the host. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { loadConfig } from '../../host/config.ts';
import { oomScore } from '../../host/sys/oom-score.ts';

const repository = resolve(import.meta.dirname, '../..');
const unit = readFileSync(join(repository, 'ops/systemd/hatch.service'), 'utf8');

test('systemd understands every line of it', () => {
  const directory = mkdtempSync(join(tmpdir(), 'hatch-unit-'));
  try {
    // The program has to be there.
    const file = join(directory, 'hatch.service');
    writeFileSync(file, unit.replaceAll('/opt/hatchery', repository));
    const { status, stderr, error } = spawnSync('systemd-analyze', ['verify', file], {
      encoding: 'utf8',
    });
    assert.equal(error, undefined, 'needs systemd-analyze of the package systemd');
    // What it does not know it only warns of.
    assert.deepEqual({ status, stderr }, { status: 0, stderr: '' });
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('it gives the host what that expects', () => {
  const config = loadConfig({ directory: '/' });
  assert.equal(valueOf('Delegate'), 'yes');
  assert.equal(`/var/lib/${valueOf('StateDirectory')}`, config.stateDirectory);
  assert.ok(Number(valueOf('TimeoutStopSec')) * 1000 > 2 * config.drainMs);
  assert.equal(Number(valueOf('OOMScoreAdjust')), oomScore.host);
});

function valueOf(key: string): string {
  return new RegExp(`^${key}=(.*)$`, 'm').exec(unit)?.[1] ?? assert.fail(`has no ${key}`);
}
