import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HatchError } from '../../../host/base/errors.ts';
import { checkLimits } from '../../../host/cgroup/limits.ts';
import { type Machine, thisMachine } from '../../../host/function/limit-fields.ts';
import {
  type FunctionManifest,
  type ManifestProblem,
  parseManifest,
  refuseBeyondMachine,
} from '../../../host/function/manifest.ts';
import { limitsOf } from '../../../host/pool/pool-function.ts';

const smallest = { name: 'hello', entry: 'handler.ts' };
const all = { cpuBurst: true, memoryHigh: true, io: true, ioBuffered: true };
const machine: Machine = { cores: 2, memoryMb: 4096, pidsMax: 32_768, limits: all };
const fields = [
  'memoryMb',
  'memoryHighMb',
  'cpu',
  'cpuBurst',
  'cpuWeight',
  'pidsMax',
  'io',
] as const;

test('whatever limits are asked for: refused by name, or taken by every kernel', () => {
  const anything = fc.oneof(
    fc.double(),
    fc.integer({ min: -10, max: 300 }),
    fc.integer(),
    fc.constantFrom(-1, 0, 0.5, 1e21, Number.MAX_SAFE_INTEGER, NaN, Infinity, '64', null, [], {}),
  );
  const io = fc.oneof(
    anything,
    fc.record(
      {
        readBytesPerSecond: fc.oneof(anything, fc.integer({ min: 65_536, max: 2 ** 40 })),
        writeOpsPerSecond: anything,
        unheardOf: anything,
      },
      { requiredKeys: [] },
    ),
  );
  const mostly = (plausible: fc.Arbitrary<unknown>) =>
    fc.oneof({ weight: 9, arbitrary: plausible }, { weight: 1, arbitrary: anything });
  const wanted = fc.record(
    {
      memoryMb: mostly(fc.integer({ min: 16, max: 4097 })),
      memoryHighMb: mostly(fc.integer({ min: 16, max: 200 })),
      cpu: mostly(fc.double({ min: 0.01, max: 2.1, noNaN: true })),
      cpuBurst: mostly(fc.double({ min: 0, max: 1, noNaN: true })),
      cpuWeight: mostly(fc.integer({ min: 1, max: 10_000 })),
      pidsMax: mostly(fc.integer({ min: 8, max: 32_768 })),
      io,
    },
    { requiredKeys: [] },
  );
  let accepted = 0;
  fc.assert(
    fc.property(wanted, (limits) => {
      const problems = problemsOf(() => accept({ ...smallest, ...limits }));
      if (problems !== undefined) {
        assert.ok(problems.length > 0);
        for (const { path } of problems)
          assert.ok(
            fields.some((field) => path === field || path.startsWith(`${field}.`)),
            path,
          );
        return;
      }
      accepted += 1;
      checkLimits(limitsOf(accept({ ...smallest, ...limits })), all);
    }),
    { numRuns: 2000 },
  );
  assert.ok(accepted > 20, `${accepted} of 2000 were accepted`);
});

test('each limit refuses what is negative, too little or absurd, by its name', () => {
  const least = {
    memoryMb: 16,
    memoryHighMb: 16,
    cpu: 0.01,
    cpuBurst: 0,
    cpuWeight: 1,
    pidsMax: 8,
    timeoutMs: 1,
    graceMs: 0,
    concurrency: 1,
    instancesMax: 1,
    parked: 0,
    keepAliveMs: 0,
    freezeIdleAfterMs: 0,
    'io.readBytesPerSecond': 65_536,
    'io.writeBytesPerSecond': 65_536,
    'io.readOpsPerSecond': 1,
    'io.writeOpsPerSecond': 1,
  };
  for (const [path, minimum] of Object.entries(least)) {
    const [field = '', inner] = path.split('.');
    const manifest = (value: unknown) => ({
      ...smallest,
      [field]: inner === undefined ? value : { [inner]: value },
    });
    for (const value of [-1, minimum - 0.005, 1e15, Infinity, NaN, '64', null, [1]])
      assert.deepEqual(
        pathsOf(() => accept(manifest(value))),
        [path],
        `${path}: ${String(value)}`,
      );
    accept(manifest(minimum));
  }
});

test('limits that contradict each other are refused by the name of the dependent one', () => {
  for (const [path, change] of [
    ['memoryHighMb', { memoryMb: 128, memoryHighMb: 128 }],
    ['memoryHighMb', { memoryMb: 64, memoryHighMb: 100 }],
    ['cpuBurst', { cpu: 0.5, cpuBurst: 0.6 }],
  ] as const)
    assert.deepEqual(
      pathsOf(() => accept({ ...smallest, ...change })),
      [path],
    );
});

test('limits above the machine, and those that it does not have, are refused by name', () => {
  const less = (limits: Partial<Machine['limits']>) => ({
    ...machine,
    limits: { ...all, ...limits },
  });
  const cases: [path: string, change: Partial<FunctionManifest>, on: Machine][] = [
    ['memoryMb', { memoryMb: 4097 }, machine],
    ['cpu', { cpu: 2.5 }, machine],
    ['pidsMax', { pidsMax: 1025 }, { ...machine, pidsMax: 1024 }],
    ['memoryHighMb', { memoryHighMb: 100 }, less({ memoryHigh: false })],
    ['cpuBurst', { cpuBurst: 0.5 }, less({ cpuBurst: false })],
    ['io', { io: { readOpsPerSecond: 5 } }, less({ io: false, ioBuffered: false })],
  ];
  for (const [path, change, on] of cases) {
    const manifest = parseManifest({ ...smallest, ...change });
    assert.deepEqual(
      pathsOf(() => refuseBeyondMachine(manifest, on)),
      [path],
    );
  }
  refuseBeyondMachine(parseManifest({ ...smallest, memoryMb: 4096, cpu: 2 }), machine);
});

test('this machine takes a function with the defaults', () => {
  const none = { cpuBurst: false, memoryHigh: false, io: false, ioBuffered: false };
  refuseBeyondMachine(parseManifest(smallest), thisMachine({ memoryMb: 128, limits: none }));
});

function accept(value: unknown): FunctionManifest {
  const manifest = parseManifest(value);
  refuseBeyondMachine(manifest, machine);
  return manifest;
}

function pathsOf(action: () => void): string[] {
  return problemsOf(action)?.map(({ path }) => path) ?? [];
}

function problemsOf(action: () => void): ManifestProblem[] | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    assert.ok(error instanceof HatchError && error.code === 'deploy.invalid', String(error));
    return error.details['problems'] as ManifestProblem[];
  }
}
