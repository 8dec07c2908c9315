/** An instance reads from the disk as fast as it may; what is in memory is not slowed. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { globSync } from 'node:fs';
import { test } from 'node:test';
import { HatchError } from '../../host/base/errors.ts';
import { diskOf } from '../../host/cgroup/disk.ts';
import { hostForFile } from '../support/file-host.ts';
import type { InlineFunction } from '../support/upload-function.ts';

const getHost = hostForFile();
const MiB = 2 ** 20;
const fileMiB = 4;

test('4.5 a limit on reading holds, or its lack is told by the deploy', async (context) => {
  const host = getHost();
  await host.deploy(reader('unlimited'));
  const io = { readBytesPerSecond: 2 * MiB };
  const disk = diskOf(host.stateDirectory);
  if (disk === undefined) {
    await assert.rejects(host.deploy(reader('limited', io)), (error) => {
      assert.ok(error instanceof HatchError && error.code === 'deploy.invalid');
      return /io: needs the controller/.test(error.message);
    });
    const { reply } = await host.client.askAny('doctor', {});
    const check = reply.checks.find(({ name }) => name === 'limits');
    assert.match(check?.detail ?? '', /but not .*\bio\b/);
    return context.diagnostic(`refused: no disk is below "${host.stateDirectory}"`);
  }
  await host.deploy(reader('limited', io));
  const readMs = async (name: string): Promise<number> => (await host.call(name)).json<number>();

  forget(host.stateDirectory);
  const unlimitedMs = await readMs('unlimited');
  forget(host.stateDirectory);
  const expectedMs = (1000 * fileMiB * MiB) / io.readBytesPerSecond;
  const limitedMs = await readMs('limited');
  assert.ok(limitedMs > 0.8 * expectedMs, `${limitedMs} ms of ${expectedMs}`);
  assert.ok(unlimitedMs < 0.5 * expectedMs, `${unlimitedMs} ms without a limit`);
  const cachedMs = await readMs('limited');
  assert.ok(cachedMs < 0.5 * expectedMs, `${cachedMs} ms from memory`);
});

function reader(name: string, io?: Record<string, number>): InlineFunction {
  return {
    manifest: { name, files: ['data.bin'], ...(io === undefined ? {} : { io }) },
    'handler.ts': `import { readFileSync } from 'node:fs';
      export const handler = () => {
        const began = performance.now();
        readFileSync('/function/data.bin');
        return performance.now() - began;
      };`,
    extraFiles: { 'data.bin': randomBytes(fileMiB * MiB) },
  };
}

/** Has the kernel keep no copy of the layers' files in memory. */
function forget(stateDirectory: string): void {
  const files = globSync(`${stateDirectory}/images/**/data.bin`);
  assert.ok(files.length > 0, 'no layer has the file');
  for (const file of files) {
    execFileSync('sync', [file]);
    execFileSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
  }
}
