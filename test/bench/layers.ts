/** What layers of isolation cost at a start: with all, and with one of them left out, in turns. */
import { stepNames } from '../../host/base/channels.ts';
import { isolationHere } from '../../host/security/isolation.ts';
import type { StepSamples } from './engine-worker.ts';
import { openBenchEngine } from './engines.ts';
import type { OmittedLayer } from './layers-off.ts';
import { rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';

const batch = 10;

export async function measureLayers({ quick, progress }: Options): Promise<Measured> {
  using scratch = new Scratch();
  await using opened = new AsyncDisposableStack();
  const omitted = omittable();
  progress(`Opening ${omitted.length} engines: with all layers, and each without one`);
  const contenders = [];
  for (const [index, without] of omitted.entries()) {
    const name = without === undefined ? 'all-layers' : `without-${without}`;
    const of = { name, index: 10 + index, parked: 0, without, scratch, opened };
    const { worker } = await openBenchEngine(of);
    await worker.ask('startSteps', { count: 5 });
    contenders.push({ name, worker, samples: [] as StepSamples[] });
  }
  const rounds = quick ? 2 : 40;
  for (let round = 1; round <= rounds; round++) {
    progress(`Starting instances, round ${round} of ${rounds}`);
    for (const { worker, samples } of contenders)
      samples.push(...(await worker.ask('startSteps', { count: quick ? 2 : batch })));
  }
  const rows = contenders.flatMap(({ name, samples }) =>
    ['start', 'drop'].map((part) => {
      return rowOf(part === 'start' ? name : `${name}-${part}`, 'ms', valuesOf(samples, part));
    }),
  );
  const [all] = contenders;
  const steps = stepNames
    .map((step) => rowOf(`step-${step}`, 'ms', valuesOf(all?.samples ?? [], step)))
    .filter(({ n }) => n > 0);
  return { rows: [...rows, ...steps], ratios: {}, budgets: [] };
}

function valuesOf(samples: readonly StepSamples[], part: string): number[] {
  return samples.map((one) => one[part]).filter((ms) => ms !== undefined);
}

/** Those that a kernel may have, as far as this one does. The others are the container itself. */
function omittable(): (OmittedLayer | undefined)[] {
  const { landlock, apparmor, selinux } = isolationHere();
  return [
    undefined,
    'seccomp',
    ...(landlock === 'enforced' ? (['landlock'] as const) : []),
    ...(apparmor === 'enforced' || selinux === 'enforced' ? (['label'] as const) : []),
  ];
}
