/**
 * What instances write to the disk is held to their `io`: on btrfs, where roots are on the disk of
 * the state directory, which is a loop device here that no device number of a file names.
 */
import assert from 'node:assert/strict';
import { after, before, test, type TestContext } from 'node:test';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { diskOf } from '../../host/cgroup/disk.ts';
import { DiskHost } from '../support/disk-host.ts';
import type { TestHost } from '../support/host.ts';
import type { InlineFunction } from '../support/upload-function.ts';

const MiB = 2 ** 20;
const limitMiBPerSecond = 4;
const writtenMiB = 12;
/** The kernel lets a group have a fifth of its memory written and not yet on the disk. */
const bufferedMiB = 80;
const memoryMb = 192;
const limitedAndNot = ['limited', 'unlimited'] as const;
type Name = (typeof limitedAndNot)[number];
type How = 'fsync' | 'O_DSYNC' | 'buffered';

let onDisk: DiskHost;
let host: TestHost;

before(async () => {
  onDisk = await DiskHost.start('btrfs', { sizeMiB: 2048 });
  ({ host } = onDisk);
  const writeBytesPerSecond = limitMiBPerSecond * MiB;
  await host.deploy(writer('limited', { io: { writeBytesPerSecond } }));
  await host.deploy(writer('unlimited'));
});
after(() => onDisk[Symbol.asyncDispose]());

test('the disk of a btrfs is the device that it is on', () => {
  assert.match(diskOf(host.stateDirectory) ?? '', /^7:\d+$/);
});

for (const how of ['fsync', 'O_DSYNC'] as const) {
  test(`a limit on writing holds for writes with ${how}, and for its function alone`, async (t) => {
    const took = await secondsOf({ how, mebibytes: writtenMiB }, t);
    const expected = writtenMiB / limitMiBPerSecond;
    assert.ok(took.limited > 0.8 * expected, `${took.limited} s of ${expected}`);
    assert.ok(took.unlimited < took.limited / 2, `${took.unlimited} s, limited ${took.limited}`);
  });
}

test('it holds for buffered writes as far as doctor says', async (t) => {
  const took = await secondsOf({ how: 'buffered', mebibytes: bufferedMiB }, t);
  const { reply } = await host.client.askAny('doctor', {});
  const limits = reply.checks.find(({ name }) => name === 'limits');
  const fastest = (bufferedMiB - memoryMb / 5) / limitMiBPerSecond;
  if (detectCgroupLayout() === 'v2') {
    assert.doesNotMatch(limits?.detail ?? '', /\bio\b/);
    assert.ok(took.limited > 0.8 * fastest, `${took.limited} s of ${fastest}`);
    assert.ok(took.unlimited < took.limited / 2, `${took.unlimited} s, limited ${took.limited}`);
  } else {
    assert.equal(limits?.status, 'warn');
    assert.match(limits.detail, /not .*io of writes that nobody waits for \(cgroup v2\)/);
    assert.ok(took.limited < 0.5 * fastest, `${took.limited} s of ${fastest}`);
  }
});

test('others start while one waits for the disk', async (t) => {
  const payload = { how: 'fsync', mebibytes: writtenMiB };
  const writing = host.call('limited', payload);
  let ended = false;
  void writing.finally(() => (ended = true));
  const startsMs: number[] = [];
  while (!ended) {
    const name = `beside-${startsMs.length}`;
    await host.deploy(writer(name, { reuse: 'never' }));
    const began = performance.now();
    (await host.call(name, { how: 'fsync', mebibytes: 0 })).json();
    startsMs.push(performance.now() - began);
  }
  (await writing).json();
  const slowest = Math.max(...startsMs);
  const writingMs = (1000 * writtenMiB) / limitMiBPerSecond;
  assert.ok(slowest < writingMs / 2, `a start took ${slowest} ms of ${writingMs}`);
  t.diagnostic(`starts took ${startsMs.map((ms) => ms.toFixed(0)).join(', ')} ms`);
});

/** How long the function itself took, with a limit and without. */
async function secondsOf(
  payload: { how: How; mebibytes: number },
  context: TestContext,
): Promise<Record<Name, number>> {
  const took = { limited: 0, unlimited: 0 };
  for (const name of limitedAndNot) took[name] = (await host.call(name, payload)).json<number>();
  context.diagnostic(`${took.limited.toFixed(2)} s, without limit ${took.unlimited.toFixed(2)} s`);
  return took;
}

function writer(name: string, manifest: Record<string, unknown> = {}): InlineFunction {
  return {
    manifest: { name, memoryMb, timeoutMs: 120_000, ...manifest },
    'handler.ts': `import fs from 'node:fs';
      import { randomBytes } from 'node:crypto';
      const piece = randomBytes(${MiB});
      export const handler = ({ how, mebibytes }: { how: string; mebibytes: number }) => {
        const { O_CREAT, O_WRONLY, O_DSYNC } = fs.constants;
        const began = performance.now();
        const flags = O_CREAT | O_WRONLY | (how === 'O_DSYNC' ? O_DSYNC : 0);
        const fd = fs.openSync('/function/' + how, flags);
        for (let n = 0; n < mebibytes; n++) fs.writeSync(fd, piece);
        if (how === 'fsync') fs.fsyncSync(fd);
        const seconds = (performance.now() - began) / 1000;
        fs.closeSync(fd);
        return seconds;
      };`,
  };
}
