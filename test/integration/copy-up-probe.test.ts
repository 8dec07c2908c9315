/**
 * How long the kernel took for a copy-up, and for which call: told where it can be (a kernel with
 * BTF and cgroup v2, as in `npm run test:vm`), and otherwise why not.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { suite, test } from 'node:test';
import type { CopyUp } from '../../host/base/channels.ts';
import { detectCgroupLayout } from '../../host/cgroup/cgroup.ts';
import { isMetadataOnly } from '../../host/telemetry/copy-up-advice.ts';
import { renderTrace } from '../../host/telemetry/waterfall.ts';
import { hostForFile } from '../support/file-host.ts';

const canTell =
  detectCgroupLayout() === 'v2' &&
  existsSync('/sys/kernel/btf/vmlinux') &&
  process.env['HATCH_TEST_VM'] !== undefined;

const changeMode = `
import { chmodSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
export const handler = () => chmodSync(fileURLToPath(import.meta.url), 0o600);
`;

suite('the timing of copy-ups', () => {
  const host = hostForFile();

  test('doctor says whether there is one', async () => {
    const answers = await host().client.askAll('doctor', {});
    const checks = answers.flatMap((answer) => ('reply' in answer ? answer.reply.checks : []));
    const check = checks.find(({ name }) => name === 'copy-up timing');
    assert.equal(check?.status, canTell ? 'ok' : 'warn', check?.detail);
    if (!canTell)
      assert.match(check?.detail ?? '', /: (groups are of cgroup v1|the kernel has no)/);
  });

  test('the trace of a call tells how long its copy-up took, and for which call', async () => {
    await host().deploy('functions/ledger');
    const { requestId } = await host().call('ledger', { account: 1, amount: 5 });
    const record = await host().trace(requestId);
    const database = record.copyUps.find(({ path }) => path.endsWith('/ledger.db'));
    assertTold(database, /^open(?:at2?)?$/);
    if (!canTell) return;
    const { durationNs = 0 } = database ?? {};
    assert.ok(durationNs > 100_000, `8 MiB copied in ${durationNs} ns`);
    assert.ok(durationNs < record.endNs - record.receivedNs, 'longer than the call');
    assert.match(renderTrace(record), /1 file in [\d.]+ .s\n.* changed .* openat .*ledger\.db\n/);
  });

  test('a change of mode alone is told as such, with the call that made it', async () => {
    await host().deploy({ manifest: { name: 'change-mode' }, 'handler.ts': changeMode });
    const { requestId, error } = await host().call('change-mode', {});
    assert.equal(error, undefined, error?.message);
    const { copyUps } = await host().trace(requestId);
    const bundle = copyUps.find(({ path }) => path.startsWith('/function/'));
    assertTold(bundle, /^f?chmod(?:at2?)?$/);
    assert.ok(bundle !== undefined && isMetadataOnly(bundle));
    assert.deepEqual([bundle.bytesChanged, bundle.attributesChanged], [0, ['mode']]);
  });
});

function assertTold(copyUp: CopyUp | undefined, systemCall: RegExp): void {
  assert.ok(copyUp !== undefined, 'nothing was copied up');
  if (canTell) assert.match(copyUp.systemCall ?? '', systemCall, JSON.stringify(copyUp));
  else assert.equal(copyUp.durationNs, undefined);
}
