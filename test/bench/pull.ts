/** An image from a registry to unpacked layers: ours against skopeo and umoci, in turns. */
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { makeLayout } from '../support/image-layout.ts';
import { RegistryServer } from '../support/registry-server.ts';
import type { PullHandlers } from './pull-worker.ts';
import { ratiosOf, rowOf, type Measured, type Options } from './report.ts';
import { Scratch } from './scratch.ts';
import { Worker } from './worker.ts';

const smallFiles = 3000;

/** Without the time that our process takes to boot: a host runs already. */
export async function measurePull({ quick, progress }: Options): Promise<Measured> {
  const rounds = quick ? 1 : 7;
  using scratch = new Scratch();
  progress('Making an image and a registry');
  const directory = join(scratch.path, 'layout');
  const { reference: tag } = await makeLayout({ directory, compression: 'gzip', layers: layers() });
  const layout = `oci:${directory}:${tag}`;
  await using registry = await RegistryServer.start();
  const reference = `${registry.host}/bench/image:1`;
  skopeo('copy', '--dest-tls-verify=false', layout, `docker://${reference}`);
  const worker = new Worker<PullHandlers>('pull-worker.ts');
  const pulls: number[] = [];
  const imports: number[] = [];
  const copies: number[] = [];
  const unpacks: number[] = [];
  let peakMB = 0;
  try {
    for (let round = 0; round < rounds; round++) {
      progress(`Pulling, round ${round + 1} of ${rounds}`);
      const root = join(scratch.path, 'store');
      const pulled = await worker.ask('pull', { root, reference });
      pulls.push(pulled.ms);
      peakMB = pulled.peakMB;
      imports.push(await worker.ask('importLayout', { root, directory }));
      const { copyMs, unpackMs } = pullWithTools(scratch, reference);
      copies.push(copyMs + unpackMs);
      unpacks.push(unpackMs);
    }
    const rows = [
      rowOf('pull', 'ms', pulls),
      rowOf('skopeo+umoci', 'ms', copies),
      rowOf('import', 'ms', imports, { note: 'of an OCI layout, verified and indexed' }),
      rowOf('umoci unpack', 'ms', unpacks, { note: 'of an OCI layout' }),
      rowOf('pull-peak-memory', 'MB', [peakMB], {
        note: 'of the process that pulls, with Node.js',
      }),
    ];
    const ratios = ratiosOf(rows, {
      'skopeo+umoci/pull': ['skopeo+umoci', 'pull'],
      'umoci-unpack/import': ['umoci unpack', 'import'],
    });
    const value = ratios['umoci-unpack/import'] ?? 0;
    const budget = { what: 'umoci unpack/import', value, unit: '', atLeast: 1 };
    return { rows, ratios, budgets: [budget] };
  } finally {
    await worker.close();
  }
}

/** One large program, and very many small files. */
function layers(): NonNullable<Parameters<typeof makeLayout>[0]['layers']> {
  const program = readFileSync(process.execPath);
  const small = Array.from({ length: smallFiles }, (_, index) => {
    const start = (index * 32_768) % (program.length - 32_768);
    const content = program.subarray(start, start + 1024 + ((index * 7919) % 31_000));
    return { type: 'file', path: `file-${index}`, mode: 0o644, content } as const;
  });
  return [[{ type: 'file', path: 'program', mode: 0o755, content: program }], small];
}

function pullWithTools(scratch: Scratch, reference: string): { copyMs: number; unpackMs: number } {
  const [layout, bundle] = [join(scratch.path, 'copied'), join(scratch.path, 'bundle')];
  const startMs = performance.now();
  skopeo('copy', '--src-tls-verify=false', `docker://${reference}`, `oci:${layout}:copied`);
  const copiedMs = performance.now();
  execFileSync('umoci', ['unpack', '--image', `${layout}:copied`, bundle], { stdio: 'ignore' });
  const endMs = performance.now();
  for (const path of [layout, bundle]) rmSync(path, { recursive: true });
  return { copyMs: copiedMs - startMs, unpackMs: endMs - copiedMs };
}

function skopeo(...args: string[]): void {
  execFileSync('skopeo', ['--insecure-policy', ...args], { stdio: 'ignore' });
}
