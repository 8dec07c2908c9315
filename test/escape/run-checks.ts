/** Runs every check on instances of one start path, each as a test named after its number. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostConfig } from '../../host/config.ts';
import { buildProbe, startProbe, type Probe } from '../support/containers.ts';
import { hostForFile } from '../support/file-host.ts';
import type { TestHost } from '../support/host.ts';
import { slowness } from '../support/slowness.ts';
import type { Check, Path, Subject } from './check.ts';
import { fileChecks } from './files.ts';
import { identityChecks } from './identity.ts';
import { imageChecks } from './images.ts';
import { lifecycleChecks } from './lifecycle.ts';
import { mountChecks } from './mounts.ts';
import { networkChecks } from './network.ts';
import { labelChecks } from './labels.ts';
import { procChecks } from './proc.ts';
import { reachChecks } from './reach.ts';
import { resourceChecks } from './resources.ts';
import { rightsChecks } from './rights.ts';
import { zygoteChecks } from './zygote.ts';

const checks: readonly Check[] = [
  ...identityChecks,
  ...mountChecks,
  ...fileChecks,
  ...procChecks,
  ...rightsChecks,
  ...zygoteChecks,
  ...resourceChecks,
  ...networkChecks,
  ...lifecycleChecks,
  ...imageChecks,
  ...reachChecks,
  ...labelChecks,
];
const checkCount = 90;
const configs: Record<Path, Partial<HostConfig>> = {
  forked: { parked: 0 },
  parked: { parked: 3 },
  booted: { parked: 0, fork: 'never' },
};
const keepAlive = { policy: 'fixed', minutes: 60 };
const secret = `hatch-canary-${process.pid}-of-the-host`;

export function runChecks(path: Path): void {
  const getHost = hostForFile({
    config: configs[path],
    environment: { CANARY: secret },
  });
  const program = buildProbe();
  after(() => program[Symbol.dispose]());
  let subject: Promise<Subject> | undefined;
  const getSubject = () => (subject ??= makeSubject(path, getHost(), program.program));

  test(`escape: the ${checkCount} checks are there, each once`, () => {
    const all = Array.from({ length: checkCount }, (_, index) => index + 1);
    const numbers = checks.map(({ number }) => number);
    assert.deepEqual(numbers, all);
  });
  for (const { number, what, cannotApply, run } of checks) {
    const label = `${number} ${path}: ${what}`;
    const why = cannotApply === undefined ? '' : `; can't apply: ${cannotApply}`;
    test(label + why, { timeout: 60_000 * slowness }, async () => run(await getSubject()));
  }
}

async function makeSubject(path: Path, host: TestHost, program: string): Promise<Subject> {
  let started = 0;
  const start = (manifest: Record<string, unknown> = {}): Promise<Probe> =>
    startOn(path, host, { ...manifest, name: `probe-${(started += 1)}` });
  const [probe, sibling] = [await start({ pidsMax: 256 }), await start()];
  return { path, host, config: configs[path], probe, sibling, start, program, secret };
}

async function startOn(path: Path, host: TestHost, manifest: { name: string }): Promise<Probe> {
  const deadline = performance.now() + 20_000 * slowness;
  while (path === 'parked' && (await host.status()).parked === 0) {
    assert.ok(performance.now() < deadline, 'no container is parked');
    await sleep(20);
  }
  // It must not end for want of calls while it waits for the next check.
  const probe = await startProbe(host, manifest.name, { keepAlive, ...manifest });
  assert.equal(probe.startPath, path);
  return probe;
}
