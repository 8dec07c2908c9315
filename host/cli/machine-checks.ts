/** What this machine has of what a host needs, as far as can be told without changing anything. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Check } from '../dispatch/control-api.ts';
import { checkKernel } from '../dispatch/kernel-checks.ts';

const run = promisify(execFile);

export async function checkMachine(): Promise<Check[]> {
  const root = process.getuid?.() === 0;
  return [
    check(
      'root',
      root ? 'ok' : 'warn',
      root ? 'yes' : 'no: "hatch up" needs it, nothing else does',
    ),
    ...checkKernel(),
    node(process.version),
    await program('nats-server', ['--version']),
  ];
}

export function node(version: string): Check {
  if (version.startsWith('v24.')) return check('node', 'ok', version);
  return check('node', 'fail', `${version}: hosts run on Node 24, which ops/setup.sh installs`);
}

async function program(name: string, args: string[]): Promise<Check> {
  try {
    const { stdout, stderr } = await run(name, args, { timeout: 5000 });
    return check(name, 'ok', (stdout || stderr).trim().split('\n')[0] ?? '');
  } catch {
    return check(name, 'warn', 'not found: needed unless hosts join a NATS server of yours');
  }
}

function check(name: string, status: Check['status'], detail: string): Check {
  return { name, status, detail };
}
