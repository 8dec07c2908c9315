/** When instances compete for a processor, each gets its share of it, and the smallest some. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuUsageUs, startProbe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';

const getHost = hostForFile();
const measuredMs = 5000;
const settlingMs = 500;
const pointsMax = 3;

for (const [name, weights] of Object.entries({
  'halving weights': [400, 200, 100],
  'equal weights': [100, 100, 100],
  'the smallest weight': [200, 100, 1],
}))
  test(`4.1 shares of one processor follow ${name}`, async () => {
    const host = getHost();
    const prefix = name.replaceAll(' ', '-');
    const probes = await Promise.all(
      weights.map((cpuWeight, at) => startProbe(host, `${prefix}-${at}`, { cpuWeight })),
    );
    // The kernel divides each processor by itself: on several, everyone may have one alone.
    for (const { functionPid } of probes)
      execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', '0', String(functionPid)]);
    const spins = probes.map((probe) =>
      probe.ask({ do: 'spin', forMs: measuredMs + 2 * settlingMs }),
    );
    await sleep(settlingMs);
    const usedUs = () => probes.map(({ instanceId }) => cpuUsageUs(host, instanceId));
    const before = usedUs();
    await sleep(measuredMs);
    const used = usedUs().map((us, at) => us - (before[at] ?? 0));
    await Promise.all(spins);

    // Of what they got together: others on this machine may run there too.
    const [total, weightsTotal] = [used, weights].map((all) => all.reduce((a, b) => a + b)) as [
      number,
      number,
    ];
    const shares = used.map((us) => (100 * us) / total);
    for (const [at, weight] of weights.entries()) {
      const expected = (100 * weight) / weightsTotal;
      const share = shares[at] ?? 0;
      assert.ok(share > 0 && Math.abs(share - expected) <= pointsMax, `${shares.join(' : ')}`);
    }
  });
