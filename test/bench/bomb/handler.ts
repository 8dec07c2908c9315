import { spawn } from 'node:child_process';
import type { Handler } from '../../../functions/types.ts';

/** Shells that start shells, as many as the kernel allows, for so long. */
export const handler: Handler<{ forMs: number }> = async ({ forMs }) => {
  const script = 'bomb() { bomb & bomb; }; while :; do bomb; done';
  const shell = spawn('/bin/sh', ['-c', script], { stdio: 'ignore', detached: true });
  await new Promise((resolve) => setTimeout(resolve, forMs));
  if (shell.pid !== undefined) process.kill(-shell.pid, 'SIGKILL');
};
